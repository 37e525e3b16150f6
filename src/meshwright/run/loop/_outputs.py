"""Outputs of all data ranks put together on each, so that a script's own loss sees the whole batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from meshwright.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputShare:
    """This data rank's examples of a batch.

    Args:
        ends: where the shares begin and end.
        number: of this one.
        stand_in: examples that a rank without any computes, to join the exchanges.
        group: the data ranks, in the order of their shares; None: all workers.
    """

    ends: Sequence[int]
    number: int
    stand_in: slice
    group: dist.ProcessGroup | None

    @property
    def where(self) -> slice:
        """Its examples."""
        return slice(self.ends[self.number], self.ends[self.number + 1])

    @property
    def count(self) -> int:
        """How many there are."""
        return self.where.stop - self.where.start

    @property
    def computed(self) -> slice:
        """What the model is given."""
        return self.where if self.count else self.stand_in

    @property
    def is_whole(self) -> bool:
        """Whether there is no other."""
        return len(self.ends) == 2


def gathered(own: Tensor, share: OutputShare, *, model: str) -> Tensor:
    """An output of the whole batch.

    Args:
        own: of this data rank's examples.
        share: which they are.
        model: name of the model's class.

    Raises:
        UsageError: its leading dim does not count examples, such as a loss.
    """
    if share.is_whole:
        return own
    given = share.computed.stop - share.computed.start
    if own.dim() == 0 or len(own) != given:
        raise UsageError(
            f"{model}'s output has shape {list(own.shape)} for {given} examples",
            cause="outputs of all workers are put together along their leading dim, which has to count examples",
            alternatives=[
                "have the model give what belongs to each example, and compute the loss from that in the loop",
                "mw.parallel(model, optimizer, loss): a loss of the model's own is understood there",
                "data = 1: --set tensor=2 or --set context=2 alone splits no batch",
            ],
        )
    return _Gather.apply(own, share)  # type: ignore[return-value]


class _Gather(torch.autograd.Function):
    """o = (o₁ … oₙ) on every data rank; back comes ∂L/∂o_k, of a loss that all compute alike."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, share: OutputShare) -> Tensor:
        ctx.share, ctx.computed = share, own.shape
        counts = [end - start for start, end in zip(share.ends[:-1], share.ends[1:], strict=True)]
        sent = own.new_zeros(max(counts), *own.shape[1:])
        sent[: counts[share.number]] = own[: counts[share.number]]
        message = sent.to(torch.uint8) if sent.dtype == torch.bool else sent
        parts = [torch.empty_like(message) for _ in counts]
        dist.all_gather(parts, message, group=share.group)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)]).to(own.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:  # pyrefly: ignore[bad-override]
        own = gradients[0].new_zeros(ctx.computed)
        found = gradients[0][ctx.share.where]
        own[: len(found)] = found
        return own, None
