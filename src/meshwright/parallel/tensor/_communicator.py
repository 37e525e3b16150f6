"""What carries tensors between the workers of an axis."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Rows by sender and receiver.
Counts = Sequence[Sequence[int]]


class Communicator(ABC):
    """Collectives of the workers of one axis. Tensors are contiguous; every worker calls the same in the same order."""

    @property
    @abstractmethod
    def coordinate(self) -> int:
        """This worker's number on the axis."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Workers on the axis."""

    @abstractmethod
    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over the workers; the tensor may be overwritten."""

    @abstractmethod
    def all_gather(self, tensor: Tensor) -> Tensor:
        """Everybody's tensor, stacked in a new first dim."""

    @abstractmethod
    def reduce_scatter(self, tensor: Tensor) -> Tensor:
        """From a tensor with a first dim of one entry per worker: this worker's entry, summed over the workers."""

    @abstractmethod
    def all_to_all(self, tensor: Tensor) -> Tensor:
        """From a tensor with a first dim of one entry per worker: the entries that the workers have for this one."""

    @abstractmethod
    def travel(self, rows: Tensor, counts: Counts) -> Tensor:
        """Rows for this worker, in the order of the senders.

        Args:
            rows: for all workers, in the order of their coordinates.
            counts: by sender and receiver, the same on all workers.
        """

    @abstractmethod
    def rotate(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Hands a tensor to the next worker; the result waits for the previous worker's, of the same shape."""

    @abstractmethod
    def close(self) -> None:
        """Gives back what the communicator holds of its own."""


class GroupCommunicator(Communicator):
    """Collectives of a process group: gloo or NCCL.

    Args:
        group: the workers of the axis, in the order of their coordinates.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group: Any = group
        self._size = dist.get_world_size(group)
        self._coordinate = dist.get_rank(group)

    @property
    def coordinate(self) -> int:
        """This worker's number on the axis."""
        return self._coordinate

    @property
    def size(self) -> int:
        """Workers on the axis."""
        return self._size

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over the workers, in place."""
        dist.all_reduce(tensor, group=self._group)
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Everybody's tensor, stacked."""
        whole = tensor.new_empty((self._size, *tensor.shape))
        dist.all_gather_single(whole.view(-1), tensor.view(-1), group=self._group)
        return whole

    def reduce_scatter(self, tensor: Tensor) -> Tensor:
        """This worker's entry, summed."""
        part = torch.empty_like(tensor[0])
        dist.reduce_scatter_single(part.view(-1), tensor.view(-1), group=self._group)
        return part

    def all_to_all(self, tensor: Tensor) -> Tensor:
        """The entries that the workers have for this one."""
        received = torch.empty_like(tensor)
        dist.all_to_all_single(received.view(-1), tensor.view(-1), group=self._group)
        return received

    def travel(self, rows: Tensor, counts: Counts) -> Tensor:
        """Rows for this worker."""
        arriving = [row[self._coordinate] for row in counts]
        received = rows.new_empty((sum(arriving), *rows.shape[1:]))
        dist.all_to_all_single(received, rows, arriving, list(counts[self._coordinate]), group=self._group)
        return received

    def rotate(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Sent and received while the worker goes on."""
        members = dist.get_process_group_ranks(self._group)
        after, before = (members[(self._coordinate + step) % self._size] for step in (1, -1))
        received = torch.empty_like(tensor)
        works = dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, tensor, after, group=self._group),
                dist.P2POp(dist.irecv, received, before, group=self._group),
            ]
        )

        def arrived() -> Tensor:
            for work in works:
                work.wait()
            return received

        return arrived

    def close(self) -> None:
        """Nothing: the group is its maker's."""
