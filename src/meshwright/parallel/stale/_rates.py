"""The learning rates of steps that several workers take on the same parameters, each with a gradient of its own.

The steps of all workers together are to be one of the whole batch. A worker's rate is its part $w$ of the batch times
the user's: plain gradient steps then add up to the exact one, weight decay counts once, and optimizers whose step does
not grow with the gradient (Adam and its kin) do not step once per worker. Rows of a table that one worker's examples
alone touch are another case: there the exact gradient is $w$ times that worker's, which such an optimizer makes a whole
step of, so that rates of groups with nothing but sparse gradients stay as they are.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.optim import Optimizer

from meshwright.errors import PlanError
from meshwright.parallel._twin import stepped_twin

_ROWS, _COLUMNS, _STEPS = 4, 3, 3
# Adam's small divisor keeps its steps from being exactly alike.
_ALIKE = 1e-3


class PartRates:
    """What a worker's part of the batch makes of its learning rates.

    Args:
        optimizer: the user's.
        weight: of this worker (0 to 1).

    Raises:
        PlanError: the optimizer's step does not follow its rate.
    """

    def __init__(self, optimizer: Optimizer, *, weight: float) -> None:
        self._optimizer = optimizer
        self._weight = weight
        self._is_scale_free = [_is_scale_free(optimizer, place) for place in range(len(optimizer.param_groups))]

    def now(self) -> list[float]:
        """The rate of every group, for the gradients that there are."""
        return [
            float(group["lr"]) * (1.0 if scale_free and _has_rows_only(group) else self._weight)
            for group, scale_free in zip(self._optimizer.param_groups, self._is_scale_free, strict=True)
        ]


@contextmanager
def with_rates(optimizer: Optimizer, rates: Sequence[float]) -> Iterator[None]:
    """Inside of it an optimizer has other rates, one per group; the user's scheduler finds its own ones afterwards."""
    own = [group["lr"] for group in optimizer.param_groups]
    for group, before, rate in zip(optimizer.param_groups, own, rates, strict=True):
        group["lr"] = torch.full_like(before, rate) if isinstance(before, torch.Tensor) else rate
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, own, strict=True):
            group["lr"] = rate


def _has_rows_only(group: dict) -> bool:
    gradients = [tensor.grad for tensor in group["params"] if tensor.grad is not None]
    return bool(gradients) and all(gradient.is_sparse for gradient in gradients)


def _is_scale_free(optimizer: Optimizer, place: int) -> bool:
    """Whether steps stay as they are when gradients are halved; found by stepping a small parameter."""
    settings = optimizer.param_groups[place]
    if "lr" not in settings:
        raise PlanError(
            f"{type(optimizer).__name__} without a learning rate, updating parameters that workers share",
            cause="each worker's step is to count by its part of the batch, through the rate",
            alternatives=["--set updates=local", "an optimizer with `lr`, such as SGD, AdamW or SparseAdam"],
            command="meshwright run SCRIPT",
        )
    generator = torch.Generator().manual_seed(0)
    start, *gradients = (
        torch.randn(_ROWS, _COLUMNS, generator=generator, dtype=torch.float64) for _ in range(_STEPS + 1)
    )
    way, halves = (
        _way(optimizer, settings, start, [gradient * scale for gradient in gradients]) for scale in (1.0, 0.5)
    )
    return torch.allclose(way, halves, rtol=_ALIKE, atol=_ALIKE * float(way.abs().max()))


def _way(optimizer: Optimizer, settings: dict, start: torch.Tensor, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """How far some steps move a small parameter, weight decay left out."""
    plain = {**settings, "weight_decay": 0.0} if "weight_decay" in settings else settings
    needs_rows = isinstance(optimizer, torch.optim.SparseAdam)
    steps = [[gradient.to_sparse(1) if needs_rows else gradient] for gradient in gradients]
    (end,) = stepped_twin(optimizer, plain, [start], steps)
    return end - start
