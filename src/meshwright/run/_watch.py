"""What a step must not do unnoticed: give no scalar, or give no number."""

import math

from torch import Tensor

from meshwright.errors import LossError


def checked(output: object) -> Tensor:
    """A loss that can be differentiated: a scalar tensor that depends on a parameter.

    Raises:
        LossError: it is something else.
    """
    if not isinstance(output, Tensor):
        raise LossError(
            f"the loss is a {type(output).__name__}, not a tensor",
            cause="loss(model, batch) has to return a scalar tensor, or (total, weight)",
            alternatives=["return the tensor itself, without .item() or float()"],
        )
    if output.numel() != 1:
        raise LossError(
            f"the loss has shape {list(output.shape)}; it has to be a scalar",
            cause="without a scalar there is no gradient, and no rule for averaging over workers",
            alternatives=["return loss.mean()", "return (loss.sum(), loss.numel()) where examples weigh differently"],
        )
    if not output.requires_grad:
        raise LossError(
            "the loss does not depend on any trainable parameter",
            cause="it was detached, computed under no_grad, or every parameter is frozen",
            alternatives=["compute the loss from model(...) inside loss(model, batch)"],
        )
    return output if output.dim() == 0 else output.reshape(())


def check_finite(loss: float, step: int) -> None:
    """Stops a run at the first loss that is not a number.

    Args:
        loss: global mean loss.
        step: its number, from 1.

    Raises:
        LossError: NaN or infinite.
    """
    if not math.isfinite(loss):
        raise LossError(
            f"the loss is {loss} in step {step}",
            cause="an overflow, a division by zero or a logarithm of zero; the step before left finite parameters, and "
            "they were not updated with this one",
            alternatives=[
                "a smaller learning rate, or clip=1.0 in mw.parallel",
                "torch.autograd.set_detect_anomaly(True) names the operation",
                "a weight greater than zero, where the loss is (total, weight)",
            ],
        )
