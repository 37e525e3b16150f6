"""Exact steps of workers that had waited for nobody, of which one may have more steps left than another.

Each step begins with a small sum: who takes it, and with which learning rates. A worker that has done its steps, or
waits before a checkpoint, joins the sums with nothing until all others have come as far, and goes on from the
parameters and the optimizer's state of one that took the last step.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from meshwright.parallel.stale._averaging import average_gradients


class Lockstep:
    """One worker's part in steps of all.

    Args:
        parameters: whole, in the same order on all workers.
        optimizer: of them.
        weight: this worker's part of the global batch (0 to 1).
        group: the workers.
    """

    def __init__(
        self, parameters: Sequence[Tensor], optimizer: Optimizer | None, *, weight: float, group: dist.ProcessGroup
    ) -> None:
        self._parameters = list(parameters)
        self._optimizer = optimizer
        self._weight = weight
        self._group = group
        self._rank, self._size = dist.get_rank(group), dist.get_world_size(group)
        self.rates: list[float] = []

    def average(self, divisor: float) -> None:
        """Makes gradients those of the examples of all that take this step, and `rates` the mean of theirs.

        Args:
            divisor: of this worker's gradients, where its loss has weights of its own; otherwise 1.
        """
        self._going(self._weight)
        average_gradients(self._parameters, weight=self._weight if divisor == 1 else divisor, add_up=self._add_up)

    def share(self, root: int = 0) -> None:
        """Gives all workers one's parameters and optimizer state.

        Args:
            root: its rank in the group.
        """
        source = dist.get_process_group_ranks(self._group)[root]
        for parameter in self._parameters:
            dist.broadcast(parameter.detach(), src=source, group=self._group)
        if self._optimizer is None:
            return
        state: list[Any] = [self._optimizer.state_dict()["state"] if self._rank == root else None]
        dist.broadcast_object_list(state, src=source, group=self._group)
        if self._rank != root:
            own = self._optimizer.state_dict()
            self._optimizer.load_state_dict({**own, "state": state[0]})

    def wait(self) -> None:
        """Joins the steps of others until all wait."""
        last: list[int] = []
        while going := self._going(0.0):
            last = going
            for parameter in self._parameters:
                parameter.grad = None
            average_gradients(self._parameters, weight=0.0, add_up=self._add_up)
        for parameter in self._parameters:
            parameter.grad = None
        everyones: list[Any] = [None] * self._size
        dist.all_gather_object(everyones, last, group=self._group)
        latest = next((each for each in everyones if each), None)
        if latest is not None:
            self.share(latest[0])

    def _going(self, weight: float) -> list[int]:
        """Who takes this step; leaves the mean of their rates."""
        groups = [] if self._optimizer is None else self._optimizer.param_groups
        own = [float(group["lr"]) * weight for group in groups if "lr" in group]
        flags = [float(rank == self._rank and weight > 0) for rank in range(self._size)]
        told = torch.tensor([*flags, *own, weight], dtype=torch.float64, device=self._parameters[0].device)
        self._add_up(told)
        *sums, total = told.tolist()
        self.rates = [value / total for value in sums[self._size :]] if total else []
        return [rank for rank, flag in enumerate(sums[: self._size]) if flag]

    def _add_up(self, tensor: Tensor) -> None:
        dist.all_reduce(tensor, group=self._group)
