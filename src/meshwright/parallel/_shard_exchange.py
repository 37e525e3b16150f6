"""Shards gathered and scattered through shared memory, where `fully_shard` would use sockets."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.exchange import SharedMemoryTransport


class SharedAllGather:
    """What `FSDPModule.set_custom_all_gather` takes.

    Args:
        transport: between the workers that hold the shards; nothing else uses it at the same time.
    """

    def __init__(self, transport: SharedMemoryTransport) -> None:
        self._transport = transport

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Ordinary memory: what is gathered lives only for a moment."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> None:
        """Done when it returns; nothing is left to wait for."""
        del group, async_op
        self._transport.all_gather(output_tensor, input_tensor)


class SharedReduceScatter:
    """What `FSDPModule.set_custom_reduce_scatter` takes.

    Args:
        transport: between the workers that hold the shards; nothing else uses it at the same time.
    """

    def __init__(self, transport: SharedMemoryTransport) -> None:
        self._transport = transport

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Ordinary memory: the result becomes the gradient."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> None:
        """Sums, whatever the operation: `FullySharded` asks `fully_shard` for nothing else."""
        del group, async_op
        assert op == dist.ReduceOp.SUM, op
        self._transport.reduce_scatter(output_tensor, input_tensor)
