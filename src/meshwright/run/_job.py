"""What the user handed over."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from meshwright.cost import Allowance
from meshwright.errors import LossError

Loss = Callable[[nn.Module, Any], Tensor | tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A training step as the user wrote it, for one device.

    Args:
        model: any module.
        optimizer: over its parameters.
        loss: gives, from model and batch, the mean over the examples, or `(total, weight)` where they weigh
            differently.
        clip: largest norm of the whole gradient; None leaves it.
        blocks: paths of repeated blocks, where a capture found some.
        allow: departures from the mathematics as written that the user permits.
        carried: what the exchange had left out when the checkpoint was saved that the job goes on from.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Loss
    clip: float | None = None
    blocks: tuple[str, ...] = ()
    allow: tuple[Allowance, ...] = ()
    carried: Mapping[str, Tensor] = field(default_factory=dict)

    def copy(self) -> "Job":
        """The same job on tensors of its own; optimizer state and hyperparameters included."""
        model, optimizer = copy.deepcopy((self.model, self.optimizer))
        return replace(self, model=model, optimizer=optimizer)


def loss_of_model(model: nn.Module, batch: Any) -> Tensor:
    """The loss that a model computes itself: `model(**batch).loss`, or what `model(*batch)` returns.

    Raises:
        LossError: the model gives no loss.
    """
    if isinstance(batch, Mapping):
        output = model(**batch)
    elif isinstance(batch, tuple | list):
        output = model(*batch)
    else:
        output = model(batch)
    value = output if isinstance(output, Tensor) else getattr(output, "loss", None)
    if value is None:
        raise LossError(
            f"{type(model).__name__} gave a {type(output).__name__} without a loss",
            cause="no loss function was handed over, so the model has to compute the loss itself",
            alternatives=["mw.parallel(model, optimizer, loss), where loss(model, batch) returns a scalar mean"],
        )
    return value
