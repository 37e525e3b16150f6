"""How gradients are compressed on their way, what that sends, and how well it has to do."""

from dataclasses import dataclass
from math import ceil, prod
from typing import Literal

from meshwright.units import Bytes

CompressionMethod = Literal["int8", "int4", "powersgd", "top_k", "random_k", "sign"]

# Bits of an element under block quantization, and bytes of a block's scale and lowest value.
_BITS = {"int8": 8, "int4": 4, "sign": 1}
_BLOCK_HEADERS: dict[str, Bytes] = {"int8": 8, "int4": 4, "sign": 4}
# A position and a value that top-k sends, and a value that random-k sends: everybody draws the same positions.
_SPARSE_ENTRY: dict[str, Bytes] = {"top_k": 4, "random_k": 2}
_FLOAT: Bytes = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Compression:
    """What is sent instead of float32 gradients. What a step leaves out is added to the next one's gradients.

    Args:
        method: `int8`, `int4`: blocks of whole numbers with a scale; `powersgd`: factors of low rank of each matrix;
            `top_k`: the largest elements; `random_k`: some, the same on every worker; `sign`: signs of the momentum.
        rank: of PowerSGD's factors.
        share: of the elements that `top_k` and `random_k` send (0 to 1).
        block: elements that have one scale.
        momentum: that `sign` is taken of (0 to 1).
        check_every: steps between two comparisons with an exact step; 0: never.
        tolerance: most by which the loss after a compressed step may exceed the loss after an exact one, as a share of
            what the exact step gains; beyond it, more is sent.
    """

    method: CompressionMethod
    rank: int = 4
    share: float = 0.01
    block: int = 512
    momentum: float = 0.9
    check_every: int = 200
    tolerance: float = 0.5

    @property
    def summary(self) -> str:
        """The choice in two words."""
        if self.method == "powersgd":
            return f"powersgd rank {self.rank}"
        if self.method in ("top_k", "random_k"):
            return f"{self.method} {self.share:.3g}"
        return self.method

    def message(self, numel: int) -> Bytes:
        """What a worker encodes of `numel` elements; for PowerSGD, `factors` (B)."""
        if self.method in _SPARSE_ENTRY:
            return ceil(numel * self.share) * _SPARSE_ENTRY[self.method]
        return ceil(numel * _BITS[self.method] / 8) + ceil(numel / self.block) * _BLOCK_HEADERS[self.method]

    def factors(self, shape: tuple[int, ...]) -> Bytes:
        """What PowerSGD sends of a parameter: its factors, or all of it where they are not smaller (B)."""
        numel = prod(shape)
        if len(shape) < 2:
            return numel * _FLOAT
        rows = shape[0]
        return min(numel, (rows + numel // rows) * min(self.rank, rows, numel // rows)) * _FLOAT
