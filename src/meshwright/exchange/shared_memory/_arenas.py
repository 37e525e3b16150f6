"""Memory that every worker of a host allocates alike, and in which each sees the others' tensors."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.errors import WorkerError
from meshwright.exchange.shared_memory._segment import Segment, SegmentAddress, host_identity
from meshwright.units import Bytes


def shares_memory(group: dist.ProcessGroup) -> bool:
    """Whether the workers of a group see each other's memory; tried, by all of them together."""
    if sys.platform != "linux":
        return False
    size = dist.get_world_size(group)
    own = Segment.create(1)
    places: list[Any] = [None] * size
    dist.all_gather_object(places, (host_identity(), own.address), group=group)
    found: list[Any] = [None] * size
    dist.all_gather_object(found, _reached(places), group=group)
    own.seal()
    return all(found)


def _reached(places: Sequence[tuple[str, SegmentAddress]]) -> bool:
    if any(host != places[0][0] for host, _ in places):
        return False
    try:
        for _, address in places:
            Segment.attach(address).seal()
    except WorkerError:
        return False
    return True


@dataclass(frozen=True, kw_only=True, slots=True)
class _Arena:
    """One allocation: `views[r]` are the bytes of worker r, seen from here."""

    start: int
    size: Bytes
    views: tuple[Tensor, ...]


class Arenas:
    """All that the workers of a group have allocated together.

    Args:
        group: the workers; None: all of them.

    Raises:
        WorkerError: they are not on one host.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self._group = dist.group.WORLD if group is None else group
        self.rank, self.size = dist.get_rank(self._group), dist.get_world_size(self._group)
        self._arenas: list[_Arena] = []
        hosts = set(self._gathered(host_identity()))
        if len(hosts) > 1:
            raise WorkerError(
                f"{self.size} workers on {len(hosts)} hosts cannot share memory",
                alternatives=["exchange through gloo: --set transport=gloo"],
            )

    def allocate(self, numel: int, dtype: torch.dtype) -> Tensor:
        """Memory set to zero; every worker asks for the same at the same time."""
        size = max(1, numel) * dtype.itemsize
        segments = self.segments(size, creators=range(self.size))
        views = tuple(torch.frombuffer(segment.memory, dtype=torch.uint8, count=size) for segment in segments)
        own = views[self.rank]
        self._arenas.append(_Arena(start=own.data_ptr(), size=size, views=views))
        return own.view(dtype)[:numel]

    def release(self, tensor: Tensor) -> None:
        """Forgets an allocation; it is freed with the last tensor in it."""
        self._arenas.remove(cast(_Arena, self._arena(tensor)))

    def clear(self) -> None:
        """Forgets all allocations."""
        self._arenas.clear()

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in an allocation."""
        return self._arena(tensor) is not None

    def copies(self, tensor: Tensor) -> list[Tensor]:
        """A contiguous tensor of an allocation, and what lies in its place in the others', by worker."""
        arena = self._arena(tensor)
        assert arena is not None
        assert tensor.is_contiguous(), "only contiguous tensors travel"
        offset = tensor.data_ptr() - arena.start
        return [view[offset : offset + tensor.nbytes].view(tensor.dtype) for view in arena.views]

    def segments(self, size: Bytes, *, creators: Sequence[int]) -> list[Segment]:
        """One segment of each creator, attached by every worker."""
        own = Segment.create(size) if self.rank in creators else None
        addresses: list[SegmentAddress | None] = self._gathered(own.address if own else None)
        segments = [
            own if own and creator == self.rank else Segment.attach(cast(SegmentAddress, addresses[creator]))
            for creator in creators
        ]
        self._gathered(None)
        for segment in segments:
            segment.seal()
        return segments

    def processes(self) -> list[int]:
        """Process number of each worker."""
        return self._gathered(os.getpid())

    def _arena(self, tensor: Tensor) -> _Arena | None:
        address = tensor.data_ptr()
        for arena in self._arenas:
            if arena.start <= address and address + tensor.nbytes <= arena.start + arena.size:
                return arena
        return None

    def _gathered(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._group)
        return values
