"""Shards gathered and scattered in fewer bits, where `fully_shard` would send float32.

Parameters are rounded block by block where they are gathered: all workers compute with the same rounded values, while
the optimizer steps the exact shards. Of gradients each worker keeps what its message left out, and adds it to the next
ones, so that over the steps everything is sent.
"""

from collections.abc import Iterator, Mapping

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from meshwright.cost import Compression
from meshwright.exchange import Wire
from meshwright.exchange.compression import ByteBlocks, Codec, make_codec
from meshwright.parallel._shard_exchange import exchange_by


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
        self._scatters = {path: EncodedScatter(self._wire, make_codec(choice)) for path in modules}
        gather = EncodedGather(self._wire, ByteBlocks(choice.block))
        for path, module in modules.items():
            exchange_by(module, gather=gather, scatter=self._scatters[path])

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


class EncodedGather:
    """Parameters of all workers, each as its owner's message says.

    Args:
        wire: between the workers that hold the shards; nothing else uses it at the same time.
        codec: of parameters.
    """

    def __init__(self, wire: Wire, codec: Codec) -> None:
        self._wire = wire
        self._codec = codec

    def __call__(self, whole: Tensor, part: Tensor) -> None:
        """Fills the whole; this worker too takes its part as the others read it."""
        own = _padded(part.reshape(1, -1), self._codec.block)
        places = whole.view(self._wire.size, -1)
        for message, place in zip(self._wire.gather(self._codec.compress(own[0], draw=0)), places, strict=True):
            values = torch.zeros_like(own[0])
            self._codec.decompress(message, values, weight=1.0, draw=0)
            place.copy_(values[: place.numel()])


class EncodedScatter:
    """Sums of one module's gradients, as the messages say, each worker's part of them.

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

    def __call__(self, part: Tensor, whole: Tensor) -> None:
        """Fills the part."""
        given = _padded(whole.reshape(self._wire.size, -1), self._codec.block)
        carried = self._begun(given) if self.carried is None else self.carried
        carried.add_(given)
        messages = [self._codec.compress(row, draw=0) for row in carried]
        for message, row in zip(messages, carried, strict=True):
            self._codec.decompress(message, row, weight=-1.0, draw=0)
        total = torch.zeros_like(carried[0])
        for message in self._wire.scatter(messages):
            self._codec.decompress(message, total, weight=1.0, draw=0)
        part.copy_(total[: part.numel()].view(part.shape))

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
