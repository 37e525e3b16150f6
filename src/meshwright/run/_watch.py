"""What a step must not do unnoticed: give no scalar, give no number, or become slow."""

import math
from statistics import median

from torch import Tensor

from meshwright.errors import LossError
from meshwright.units import Seconds, format_seconds

WINDOW = 20
SHORTEST_WINDOW: Seconds = 2.0
SLOWER = 1.6


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


class Drift:
    """Notices when steps have become much slower than they were.

    Args:
        predicted: step time of the plan (s); 0 where there is none.
    """

    def __init__(self, predicted: Seconds) -> None:
        self._predicted = predicted
        self._window: list[Seconds] = []
        self._spent: Seconds = 0.0
        self._first = self._next = 1
        self._normal: Seconds = 0.0
        self._told = False

    def add(self, duration: Seconds, step: int) -> str:
        """Takes a step's duration (s); gives a sentence when the median of the last ones has drifted, else nothing."""
        self._window.append(duration)
        self._spent += duration
        if len(self._window) < WINDOW or self._spent < SHORTEST_WINDOW:
            return ""
        self._first, self._next = self._next, step + 1
        now, self._window, self._spent = median(self._window), [], 0.0
        if not self._normal:
            self._normal = now
            return self._slower_than_predicted(now, step)
        if now < SLOWER * self._normal:
            self._told = False
            return ""
        return self._once(
            now,
            step,
            f"{now / self._normal:.1f} × the {format_seconds(self._normal)} they took at the start: "
            "the load of the machine has changed, or examples became longer",
        )

    def _slower_than_predicted(self, now: Seconds, step: int) -> str:
        if not self._predicted or now < SLOWER * self._predicted:
            return ""
        return self._once(
            now,
            step,
            f"{now / self._predicted:.1f} × the predicted {format_seconds(self._predicted)}: "
            "the machine is busier than when the plan was made, or the prediction is wrong",
        )

    def _once(self, now: Seconds, step: int, comparison: str) -> str:
        if self._told:
            return ""
        self._told = True
        return (
            f"meshwright: steps {self._first} to {step} took {format_seconds(now)} each, {comparison}; "
            "`meshwright run` plans anew for what there is now"
        )
