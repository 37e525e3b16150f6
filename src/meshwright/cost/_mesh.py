"""The grid of workers."""

from dataclasses import dataclass
from math import prod
from typing import Literal

Axis = Literal["pp", "dp_replicate", "dp_shard", "cp", "ep", "tp"]
# From the axis whose neighbours are farthest apart to the one whose neighbours exchange most.
_ORDER: tuple[Axis, ...] = ("pp", "dp_replicate", "dp_shard", "cp", "tp")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mesh:
    """Degree of each mesh axis; the product is the number of workers.

    Ranks count along `tp` first, then `cp`, `dp_shard`, `dp_replicate`, `pp`. `ep` lies inside the data axes: it is
    made of neighbouring ranks along `cp` and `dp_shard`, and then `dp_replicate`.
    """

    pp: int = 1
    dp_replicate: int = 1
    dp_shard: int = 1
    cp: int = 1
    ep: int = 1
    tp: int = 1

    @property
    def num_workers(self) -> int:
        """Workers in the grid; `ep` lies inside the data axes."""
        return self.pp * self.dp_replicate * self.dp_shard * self.cp * self.tp

    @property
    def num_shares(self) -> int:
        """Into how many shares the global batch is split."""
        return self.dp_replicate * self.dp_shard

    @property
    def splits_the_model(self) -> bool:
        """Whether a worker computes less than the whole model on its share of the batch."""
        return bool(self.split_axes)

    @property
    def split_axes(self) -> tuple[str, ...]:
        """The axes that split the model, as users call them."""
        degrees = {"tensor": self.tp, "context": self.cp, "expert": self.ep, "pipeline": self.pp}
        return tuple(name for name, degree in degrees.items() if degree > 1)

    def coordinate(self, rank: int, axis: Axis) -> int:
        """Where a worker stands on an axis."""
        if axis == "ep":
            return rank // self.tp % (self.cp * self.num_shares) % self.ep
        return rank // self._stride(axis) % getattr(self, axis)

    def share(self, rank: int) -> int:
        """Which share of the global batch a worker computes."""
        return rank // (self.tp * self.cp) % self.num_shares

    def peers(self, rank: int, *axes: Axis) -> tuple[int, ...]:
        """The ranks that differ from a rank on these axes only, itself included, in the order of their coordinates.

        Args:
            axes: any but `ep`.
        """
        return tuple(
            other
            for other in range(self.num_workers)
            if all(self.coordinate(other, axis) == self.coordinate(rank, axis) for axis in _ORDER if axis not in axes)
        )

    def expert_peers(self, rank: int) -> tuple[int, ...]:
        """The ranks that together hold all experts of this rank's layers, itself included, in order of `ep`."""
        first = rank - self.coordinate(rank, "ep") * self.tp
        return tuple(first + number * self.tp for number in range(self.ep))

    @property
    def _degrees(self) -> tuple[int, ...]:
        return tuple(getattr(self, axis) for axis in _ORDER)

    def _stride(self, axis: Axis) -> int:
        return prod(self._degrees[_ORDER.index(axis) + 1 :])
