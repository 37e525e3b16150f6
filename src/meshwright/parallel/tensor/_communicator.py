"""What carries tensors between the workers of an axis."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.parallel.tensor._layout import Split


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
    def close(self) -> None:
        """Gives back what the communicator holds of its own."""


@runtime_checkable
class RingMaker(Protocol):
    """A communicator whose workers can hand keys and values round."""

    def ring_attention(self, split: Split) -> Callable[..., Tensor]:
        """Attention of which every worker has the positions of a split."""
        ...


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

    def close(self) -> None:
        """Nothing: the group is its maker's."""
