"""Collectives between the workers of an axis on one host, through memory that all of them see."""

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.exchange import SharedMemoryTransport
from meshwright.parallel.tensor._communicator import Communicator


class HostCommunicator(Communicator):
    """Collectives through shared memory, for tensors of the CPU; sums are taken in the order of the coordinates.

    Args:
        group: the workers of the axis, all on this host, in the order of their coordinates.

    Raises:
        PlanError: this is not Linux.
        WorkerError: the workers are not on one host, or there is too little memory.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._transport = SharedMemoryTransport(group)

    @property
    def coordinate(self) -> int:
        """This worker's number on the axis."""
        return self._transport.rank

    @property
    def size(self) -> int:
        """Workers on the axis."""
        return self._transport.size

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over the workers, in place."""
        self._transport.all_reduce(tensor).wait()
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Everybody's tensor, stacked."""
        whole = tensor.new_empty((self.size, *tensor.shape))
        self._transport.all_gather(whole.view(-1), tensor.view(-1))
        return whole

    def reduce_scatter(self, tensor: Tensor) -> Tensor:
        """This worker's entry, summed."""
        part = torch.empty_like(tensor[0])
        self._transport.reduce_scatter(part.view(-1), tensor.view(-1))
        return part

    def all_to_all(self, tensor: Tensor) -> Tensor:
        """The entries that the workers have for this one; everybody shows everything, and takes what is for it."""
        return self.all_gather(tensor)[:, self.coordinate].contiguous()

    def close(self) -> None:
        """Gives the shared memory back."""
        self._transport.close()
