"""Shards gathered and scattered in fewer bits, where `fully_shard` would send float32.

Parameters are rounded block by block where they are gathered: all workers compute with the same rounded values, while
the optimizer steps the exact shards. Of gradients each worker keeps what its message left out, and adds it to the next
ones, so that over the steps everything is sent.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from meshwright.cost import Compression
from meshwright.exchange import Wire
from meshwright.exchange.compression import ByteBlocks, Codec, make_codec


class EncodedShards:
    """What the modules of a sharded model exchange with.

    Args:
        modules: sharded ones, by path; the same on all workers.
        choice: block quantization of gradients; parameters take 8 bits.
        group: the workers that hold the shards of one copy.
        device: where they are.
    """

    def __init__(
        self,
        modules: Mapping[str, FSDPModule],
        choice: Compression,
        *,
        group: dist.ProcessGroup | None,
        device: torch.device,
    ) -> None:
        self._wire = Wire(group, backend="nccl" if device.type == "cuda" else "gloo")
        self._scatters: dict[str, EncodedReduceScatter] = {}
        for path, module in modules.items():
            self._scatters[path] = EncodedReduceScatter(self._wire, make_codec(choice))
            module.set_custom_all_gather(cast(Any, EncodedAllGather(self._wire, ByteBlocks(choice.block))))
            module.set_custom_reduce_scatter(cast(Any, self._scatters[path]))

    @property
    def sent(self) -> int:
        """Bytes that this worker has sent (B)."""
        return self._wire.sent

    def carried(self) -> Iterator[tuple[str, Tensor]]:
        """What gradients' messages have left out so far, summed over the workers; all of them ask for it."""
        for path, scatter in self._scatters.items():
            if scatter.carried is not None:
                summed = scatter.carried.clone()
                self._wire.sum(summed)
                yield f"carried.shards.{path}", summed

    def carry(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from what `carried` gave: in equal parts, on as many workers as it comes from."""
        for path, scatter in self._scatters.items():
            if f"carried.shards.{path}" in state:
                scatter.remembered = state[f"carried.shards.{path}"] / self._wire.size

    def close(self) -> None:
        """Closes the connections."""
        self._wire.close()


class EncodedAllGather:
    """What `FSDPModule.set_custom_all_gather` takes.

    Args:
        wire: between the workers that hold the shards; nothing else uses it at the same time.
        codec: of parameters.
    """

    def __init__(self, wire: Wire, codec: Codec) -> None:
        self._wire = wire
        self._codec = codec

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Ordinary memory: what is gathered lives only for a moment."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> None:
        """Done when it returns; this worker too takes its shard as the others read it."""
        del group, async_op
        own = _padded(input_tensor.reshape(1, -1), self._codec.block)
        places = output_tensor.view(self._wire.size, -1)
        for message, place in zip(self._wire.gather(self._codec.compress(own[0], draw=0)), places, strict=True):
            values = torch.zeros_like(own[0])
            self._codec.decompress(message, values, weight=1.0, draw=0)
            place.copy_(values[: place.numel()])


class EncodedReduceScatter:
    """What `FSDPModule.set_custom_reduce_scatter` takes: of one module.

    Args:
        wire: between the workers that hold the shards; nothing else uses it at the same time.
        codec: of gradients.

    Attributes:
        carried: what messages have left out so far, by the worker that they go to; None before the first.
        remembered: what to begin with.
    """

    def __init__(self, wire: Wire, codec: Codec) -> None:
        self._wire = wire
        self._codec = codec
        self.carried: Tensor | None = None
        self.remembered: Tensor | None = None

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Ordinary memory: the result becomes the gradient."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, op: Any, async_op: bool = False
    ) -> None:
        """Sums, whatever the operation: `FullySharded` asks `fully_shard` for nothing else."""
        del group, async_op
        assert op == dist.ReduceOp.SUM, op
        given = _padded(input_tensor.reshape(self._wire.size, -1), self._codec.block)
        carried = self._begun(given) if self.carried is None else self.carried
        carried.add_(given)
        messages = [self._codec.compress(part, draw=0) for part in carried]
        for message, part in zip(messages, carried, strict=True):
            self._codec.decompress(message, part, weight=-1.0, draw=0)
        total = torch.zeros_like(carried[0])
        for message in self._wire.scatter(messages):
            self._codec.decompress(message, total, weight=1.0, draw=0)
        output_tensor.copy_(total[: output_tensor.numel()].view(output_tensor.shape))

    def _begun(self, given: Tensor) -> Tensor:
        self.carried = torch.zeros_like(given)
        if self.remembered is not None and self.remembered.shape == given.shape:
            self.carried.copy_(self.remembered)
        self.remembered = None
        return self.carried


def _padded(rows: Tensor, block: int) -> Tensor:
    """Rows in float32, filled up with zeros to whole blocks."""
    length = -(-rows.shape[1] // block) * block
    padded = torch.zeros(rows.shape[0], length, device=rows.device)
    padded[:, : rows.shape[1]] = rows
    return padded
