"""The workers whose losses and gradients are summed in every step: all of them, or those of this worker's island."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch.distributed as dist

from meshwright.run._batch import bounds


class IslandLike(Protocol):
    """An island as far as a step has to know it."""

    @property
    def ranks(self) -> tuple[int, ...]:
        """Its workers."""
        ...

    @property
    def shares(self) -> tuple[int, ...]:
        """Shares of the global batch that it computes."""
        ...

    @property
    def group(self) -> dist.ProcessGroup | None:
        """Its workers' group; None for one worker."""
        ...


@runtime_checkable
class ApartPlaced(Protocol):
    """A placed job of which not all workers agree in every step."""

    @property
    def island(self) -> IslandLike:
        """The workers that do."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Circle:
    """Who sums up a step.

    Args:
        num_workers: how many.
        group: they; None: all there are, or nobody else.
        shares: of the global batch that they compute; None: all.
    """

    num_workers: int
    group: dist.ProcessGroup | None
    shares: tuple[int, ...] | None = None

    def examples(self, size: int, weights: Sequence[int]) -> int:
        """How many of a global batch's examples they compute.

        Args:
            size: examples of the global batch.
            weights: of its shares.
        """
        if self.shares is None:
            return size
        counts = [end - start for start, end in itertools.pairwise(bounds(size, weights))]
        return sum(counts[share] for share in self.shares)


def circle_of(placed: object, *, num_workers: int, group: dist.ProcessGroup | None) -> Circle:
    """The circle of a placed job.

    Args:
        placed: of the strategy.
        num_workers: of the strategy.
        group: of the strategy.
    """
    if isinstance(placed, ApartPlaced):
        island = placed.island
        return Circle(num_workers=len(island.ranks), group=island.group, shares=island.shares)
    return Circle(num_workers=num_workers, group=group)
