"""Tokens on their way to their experts' workers and back.

Every worker's rows are sorted by expert, and so by the worker that holds it: they are sent in one exchange. What
arrives is sorted by sender; it is put in the order of the experts that are here, whatever number came from whom.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from meshwright.parallel.program import Target
from meshwright.parallel.tensor import Communicator


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Journey:
    """One batch of tokens.

    Args:
        counts: rows by sender and receiver.
        order: row numbers of what arrives, by expert.
        offsets: where each expert's rows end here.
    """

    counts: tuple[tuple[int, ...], ...]
    order: Tensor
    offsets: Tensor


class Route(Target):
    """Finds out how many rows go where; a target of nodes of a graph.

    Args:
        communicator: of the workers that hold the experts.
    """

    def __init__(self, communicator: Communicator) -> None:
        super().__init__("route_of_tokens")
        self.communicator = communicator

    def __call__(self, offsets: Tensor) -> Journey:
        """The journey of rows whose experts' ranges end at `offsets`."""
        counts = torch.diff(offsets, prepend=offsets.new_zeros(1)).to(torch.int64)
        everywhere = self.communicator.all_gather(counts).view(self.communicator.size, self.communicator.size, -1)
        theirs = everywhere[:, self.communicator.coordinate]
        experts = torch.arange(theirs.shape[1], device=offsets.device).repeat(self.communicator.size)
        order = torch.argsort(experts.repeat_interleave(theirs.reshape(-1)), stable=True)
        return Journey(
            counts=tuple(map(tuple, everywhere.sum(2).tolist())),
            order=order,
            offsets=theirs.sum(0).cumsum(0).to(offsets.dtype),
        )


class Leave(Target):
    """Takes rows to their experts; a target of nodes of a graph.

    Args:
        communicator: as of the route.
    """

    def __init__(self, communicator: Communicator) -> None:
        super().__init__("tokens_leave")
        self.communicator = communicator

    def __call__(self, rows: Tensor, journey: Journey) -> Tensor:
        """The rows of the experts that are here, by expert."""
        return _There.apply(rows, journey, self.communicator)  # pyrefly: ignore


class Return(Target):
    """Takes rows back to where they came from; a target of nodes of a graph.

    Args:
        communicator: as of the route.
    """

    def __init__(self, communicator: Communicator) -> None:
        super().__init__("tokens_return")
        self.communicator = communicator

    def __call__(self, rows: Tensor, journey: Journey) -> Tensor:
        """This worker's rows in the order in which they left."""
        return _Back.apply(rows, journey, self.communicator)  # pyrefly: ignore


def offsets_of(journey: Journey) -> Tensor:
    """Where each expert's rows end here."""
    return journey.offsets


class _There(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, journey: Journey, communicator: Communicator) -> Tensor:
        ctx.journey, ctx.communicator = journey, communicator
        return _go(rows, journey, communicator)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        return _come(gradients[0], ctx.journey, ctx.communicator), None, None


class _Back(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, journey: Journey, communicator: Communicator) -> Tensor:
        ctx.journey, ctx.communicator = journey, communicator
        return _come(rows, journey, communicator)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        return _go(gradients[0], ctx.journey, ctx.communicator), None, None


def _go(rows: Tensor, journey: Journey, communicator: Communicator) -> Tensor:
    arrived = communicator.travel(rows.contiguous(), journey.counts)
    return arrived.index_select(0, journey.order)


def _come(rows: Tensor, journey: Journey, communicator: Communicator) -> Tensor:
    leaving = torch.empty_like(rows, memory_format=torch.contiguous_format)
    leaving.index_copy_(0, journey.order, rows)
    return communicator.travel(leaving, tuple(zip(*journey.counts, strict=True)))
