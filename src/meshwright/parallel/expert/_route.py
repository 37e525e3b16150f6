"""Tokens on their way to their experts' workers and back.

Every worker's rows are sorted by expert, and so by the worker that holds it: they are sent in one exchange. What
arrives is sorted by sender; it is put in the order of the experts that are here, whatever number came from whom.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.parallel.program import Target


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Journey:
    """One batch of tokens.

    Args:
        sent: rows for each worker.
        received: rows from each worker.
        order: row numbers of what arrives, by expert.
        offsets: where each expert's rows end here.
    """

    sent: tuple[int, ...]
    received: tuple[int, ...]
    order: Tensor
    offsets: Tensor


class Route(Target):
    """Finds out how many rows go where; a target of nodes of a graph.

    Args:
        group: workers that hold the experts, in the order of their coordinates.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        super().__init__("route_of_tokens")
        self.group = group

    def __call__(self, offsets: Tensor) -> Journey:
        """The journey of rows whose experts' ranges end at `offsets`."""
        size = dist.get_world_size(self.group)
        counts = torch.diff(offsets, prepend=offsets.new_zeros(1)).to(torch.int64).view(size, -1)
        theirs = torch.empty_like(counts)
        dist.all_to_all_single(theirs, counts.contiguous(), group=self.group)
        experts = torch.arange(counts.shape[1], device=offsets.device).repeat(size)
        order = torch.argsort(experts.repeat_interleave(theirs.reshape(-1)), stable=True)
        return Journey(
            sent=tuple(counts.sum(1).tolist()),
            received=tuple(theirs.sum(1).tolist()),
            order=order,
            offsets=theirs.sum(0).cumsum(0).to(offsets.dtype),
        )


class Leave(Target):
    """Takes rows to their experts; a target of nodes of a graph.

    Args:
        group: as of the route.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        super().__init__("tokens_leave")
        self.group = group

    def __call__(self, rows: Tensor, journey: Journey) -> Tensor:
        """The rows of the experts that are here, by expert."""
        return _There.apply(rows, journey, self.group)  # pyrefly: ignore


class Return(Target):
    """Takes rows back to where they came from; a target of nodes of a graph.

    Args:
        group: as of the route.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        super().__init__("tokens_return")
        self.group = group

    def __call__(self, rows: Tensor, journey: Journey) -> Tensor:
        """This worker's rows in the order in which they left."""
        return _Back.apply(rows, journey, self.group)  # pyrefly: ignore


def offsets_of(journey: Journey) -> Tensor:
    """Where each expert's rows end here."""
    return journey.offsets


class _There(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, journey: Journey, group: dist.ProcessGroup) -> Tensor:
        ctx.journey, ctx.group = journey, group
        return _go(rows, journey, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        return _come(gradients[0], ctx.journey, ctx.group), None, None


class _Back(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, journey: Journey, group: dist.ProcessGroup) -> Tensor:
        ctx.journey, ctx.group = journey, group
        return _come(rows, journey, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        return _go(gradients[0], ctx.journey, ctx.group), None, None


def _go(rows: Tensor, journey: Journey, group: dist.ProcessGroup) -> Tensor:
    arrived = rows.new_empty((sum(journey.received), *rows.shape[1:]))
    dist.all_to_all_single(arrived, rows.contiguous(), list(journey.received), list(journey.sent), group=group)
    return arrived.index_select(0, journey.order)


def _come(rows: Tensor, journey: Journey, group: dist.ProcessGroup) -> Tensor:
    leaving = torch.empty_like(rows, memory_format=torch.contiguous_format)
    leaving.index_copy_(0, journey.order, rows)
    home = rows.new_empty((sum(journey.sent), *rows.shape[1:]))
    dist.all_to_all_single(home, leaving, list(journey.sent), list(journey.received), group=group)
    return home
