"""Whole numbers of 8 or 4 bits between the lowest and the highest value of each block.

A value x of a block becomes round((x - low) / scale), scale = (high - low) / (2**bits - 1). On a CPU torch's own
kernels do it in one pass (they were made for rows of embedding tables); elsewhere the formula is written out.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from meshwright.exchange.compression._codec import Codec

# Rows that are worked on together: their values stay in a second-level cache.
ROWS = 128
# Values are brought to the middle of float16 first, which 4-bit rows keep scale and lowest value in; torch's kernel for
# 8 bits adds 1e-8 to a row's range, as much as small gradients have.
TARGET = 1024.0
# Below it the factor would have no end; such values count as zero.
SMALLEST = 1e-30
FACTOR = 4  # bytes


class ByteBlocks(Codec):
    """8 bits a value; per block a scale and a lowest value in float32.

    Args:
        block: values with one scale.
    """

    def __init__(self, block: int) -> None:
        self._block = block

    @property
    def block(self) -> int:
        """Values with one scale."""
        return self._block

    def compress(self, values: Tensor, *, draw: int) -> Tensor:
        """The factor that was put on the values, then one row of bytes for each block."""
        del draw
        return _packed(values.view(-1, self._block), packed_bytes)

    def decompress(self, message: Tensor, into: Tensor, *, weight: float, draw: int) -> None:
        """Adds the values of a message."""
        del draw
        _add_unpacked(message, into.view(-1, self._block), unpacked_bytes, weight=weight)

    def refine(self) -> bool:
        """Smaller blocks, down to 64 values, whose messages are 11 % longer."""
        if self._block <= 64:
            return False
        self._block //= 2
        return True


class NibbleBlocks(Codec):
    """4 bits a value; per block a scale and a lowest value in float16.

    Args:
        block: values with one scale.
    """

    def __init__(self, block: int) -> None:
        self._block = block
        self._full: ByteBlocks | None = None

    @property
    def block(self) -> int:
        """Values with one scale."""
        return self._block

    def compress(self, values: Tensor, *, draw: int) -> Tensor:
        """The factor that was put on the values, then one row for each block."""
        if self._full is not None:
            return self._full.compress(values, draw=draw)
        return _packed(values.view(-1, self._block), packed_nibbles)

    def decompress(self, message: Tensor, into: Tensor, *, weight: float, draw: int) -> None:
        """Adds the values of a message."""
        if self._full is not None:
            self._full.decompress(message, into, weight=weight, draw=draw)
            return
        _add_unpacked(message, into.view(-1, self._block), unpacked_nibbles, weight=weight)

    def refine(self) -> bool:
        """8 bits."""
        if self._full is not None:
            return False
        self._full = ByteBlocks(self._block)
        return True


def _packed(rows: Tensor, pack: Callable[[Tensor], Tensor]) -> Tensor:
    low, high = rows.aminmax()  # one pass at the speed of memory; a maximum norm takes ten times as long
    largest = max(-float(low), float(high))
    factor = TARGET / largest if SMALLEST < largest < float("inf") else 1.0
    scaled = torch.empty_like(rows[:ROWS])
    first = pack(torch.mul(rows[:ROWS], factor, out=scaled))
    message = torch.empty(FACTOR + len(rows) * first.shape[1], dtype=torch.uint8, device=rows.device)
    message[:FACTOR] = torch.tensor([factor], dtype=torch.float32, device=rows.device).view(torch.uint8)
    places = message[FACTOR:].view(len(rows), -1)
    places[:ROWS] = first
    for part, place in zip(rows[ROWS:].split(ROWS), places[ROWS:].split(ROWS), strict=True):
        place.copy_(pack(torch.mul(part, factor, out=scaled[: len(part)])))
    return message


def _add_unpacked(message: Tensor, rows: Tensor, unpack: Callable[[Tensor], Tensor], *, weight: float) -> None:
    factor = float(message[:FACTOR].clone().view(torch.float32))
    packed = message[FACTOR:].view(len(rows), -1)
    for part, target in zip(packed.split(ROWS), rows.split(ROWS), strict=True):
        target.add_(unpack(part), alpha=weight / factor)


def packed_bytes(rows: Tensor) -> Tensor:
    """Each row's values in 8 bits, then its scale and lowest value in float32 (uint8; shape `rows block+8`)."""
    if rows.device.type == "cpu":
        return torch.ops.quantized.embedding_bag_byte_prepack(rows)
    numbers, scale, low = _quantized(rows, levels=255)
    return torch.cat([numbers, scale.view(torch.uint8), low.view(torch.uint8)], dim=1)


def unpacked_bytes(packed: Tensor) -> Tensor:
    """The values of rows that `packed_bytes` packed."""
    if packed.device.type == "cpu":
        return torch.ops.quantized.embedding_bag_byte_unpack(packed)
    scale, low = packed[:, -8:].contiguous().view(torch.float32).split(1, dim=1)
    return packed[:, :-8] * scale + low


def packed_nibbles(rows: Tensor) -> Tensor:
    """Each row's values in 4 bits, the first of two in the lower ones, then scale and lowest value in float16."""
    if rows.device.type == "cpu":
        return torch.ops.quantized.embedding_bag_4bit_prepack(rows)
    numbers, scale, low = _quantized(rows, levels=15, stored=torch.float16)
    pairs = numbers[:, 0::2] | (numbers[:, 1::2] << 4)
    return torch.cat([pairs, scale.view(torch.uint8), low.view(torch.uint8)], dim=1)


def unpacked_nibbles(packed: Tensor) -> Tensor:
    """The values of rows that `packed_nibbles` packed."""
    if packed.device.type == "cpu":
        return torch.ops.quantized.embedding_bag_4bit_unpack(packed)
    scale, low = packed[:, -4:].contiguous().view(torch.float16).float().split(1, dim=1)
    pairs = packed[:, :-4]
    numbers = torch.stack([pairs & 15, pairs >> 4], dim=2).flatten(1)
    return numbers * scale + low


def _quantized(rows: Tensor, *, levels: int, stored: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Whole numbers, scale and lowest value of each row, the latter two as they are stored."""
    low, high = rows.aminmax(dim=1, keepdim=True)
    low = low.to(stored)
    scale = ((high - low.float()) / levels).to(stored)
    numbers = ((rows - low.float()) / scale.float().clamp(min=1e-38)).round().clamp(0, levels)
    return numbers.to(torch.uint8), scale.contiguous(), low.contiguous()
