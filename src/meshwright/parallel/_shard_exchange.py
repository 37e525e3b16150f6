"""Shards gathered and scattered by functions of ours, where `fully_shard` would use its own collectives."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

# Fills the first tensor from what all workers give as the second, and is done when it returns.
Exchange = Callable[[Tensor, Tensor], object]


def exchange_by(module: FSDPModule, *, gather: Exchange, scatter: Exchange) -> None:
    """Has the shards of a module exchanged by these from now on.

    Args:
        module: sharded, without its submodules.
        gather: fills the whole with everybody's shards, in the order of the ranks.
        scatter: fills a shard with its part of the sum of everybody's whole.
    """
    module.set_custom_all_gather(cast(Any, _Collective(gather)))
    module.set_custom_reduce_scatter(cast(Any, _Collective(scatter)))


class _Collective:
    """What `fully_shard` calls, done when it returns: nothing is left to wait for."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Of no pool: what is gathered lives only for a moment, and what is scattered becomes the gradient."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any = dist.ReduceOp.SUM,
        async_op: bool = False,
    ) -> None:
        """Sums, whatever the operation: `FullySharded` asks `fully_shard` for nothing else."""
        del group, async_op
        assert op == dist.ReduceOp.SUM, op
        self._exchange(output_tensor, input_tensor)
