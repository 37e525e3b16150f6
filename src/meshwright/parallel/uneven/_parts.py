"""Parts of unequal size, gathered from all workers and summed for each: what no collective of torch's does everywhere.

`all_gather_into_tensor` and `reduce_scatter_tensor` take equal sizes, and gloo's list forms too. So each part is a
broadcast by its owner, and a sum is a reduction to its owner: all of them under way at once, on any backend, of as many
bytes as the ring's. Through shared memory parts are padded to the largest one, for there only copies count.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.exchange import SharedMemoryTransport


class Parts(ABC):
    """Collectives on parts, one of each worker; all workers begin them in the same order."""

    @abstractmethod
    def gather(self, parts: Sequence[Tensor]) -> list[Any]:
        """Fills everybody's flat part from its owner's; gives what has to be waited for.

        Args:
            parts: in the order of the ranks; this worker's own is full.
        """

    @abstractmethod
    def scatter(self, parts: Sequence[Tensor]) -> None:
        """Makes this worker's part the sum of everybody's; the others are spent."""

    @abstractmethod
    def close(self) -> None:
        """Gives back what carries them."""


class GroupParts(Parts):
    """By a process group.

    Args:
        group: the workers.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self._members = dist.get_process_group_ranks(group)

    def gather(self, parts: Sequence[Tensor]) -> list[Any]:
        """One broadcast from each."""
        return [
            dist.broadcast(part, src=member, group=self._group, async_op=True)
            for part, member in zip(parts, self._members, strict=True)
            if part.numel()
        ]

    def scatter(self, parts: Sequence[Tensor]) -> None:
        """One reduction to each."""
        works: list[Any] = [
            dist.reduce(part, dst=member, op=dist.ReduceOp.SUM, group=self._group, async_op=True)
            for part, member in zip(parts, self._members, strict=True)
            if part.numel()
        ]
        for work in works:
            work.wait()

    def close(self) -> None:
        """The group is the caller's."""


class SharedParts(Parts):
    """Through memory that all workers see.

    Args:
        group: the workers; None: all there are.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self._transport = SharedMemoryTransport(group)

    def gather(self, parts: Sequence[Tensor]) -> list[Any]:
        """Padded to the largest part; done when it returns."""
        padded = self._padded(parts)
        own = padded[self._transport.rank].clone()
        self._transport.all_gather(padded.view(-1), own)
        for part, row in zip(parts, padded, strict=True):
            part.copy_(row[: part.numel()])
        return []

    def scatter(self, parts: Sequence[Tensor]) -> None:
        """Padded to the largest part."""
        padded, own = self._padded(parts), parts[self._transport.rank]
        for part, row in zip(parts, padded, strict=True):
            row[: part.numel()].copy_(part)
        total = torch.empty_like(padded[0])
        self._transport.reduce_scatter(total, padded.view(-1))
        own.copy_(total[: own.numel()])

    def close(self) -> None:
        """Gives the memory back."""
        self._transport.close()

    def _padded(self, parts: Sequence[Tensor]) -> Tensor:
        padded = parts[0].new_zeros(len(parts), max(part.numel() for part in parts))
        rank = self._transport.rank
        padded[rank, : parts[rank].numel()].copy_(parts[rank])
        return padded
