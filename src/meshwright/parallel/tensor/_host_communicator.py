"""Collectives between the workers of an axis on one host, through memory that all of them see."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.exchange import SharedMemoryTransport
from meshwright.parallel.tensor._communicator import Communicator, Counts


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
        """The entries that the workers have for this one."""
        received = torch.empty_like(tensor)
        counts = [[tensor[0].numel()] * self.size] * self.size
        self._transport.all_to_all(received.view(-1), tensor.view(-1), counts=counts)
        return received

    def travel(self, rows: Tensor, counts: Counts) -> Tensor:
        """Rows for this worker."""
        arriving = sum(row[self.coordinate] for row in counts)
        received = rows.new_empty((arriving, *rows.shape[1:]))
        width = rows[0].numel() if rows.shape[0] else received.shape[1:].numel()
        elements = [[count * width for count in row] for row in counts]
        self._transport.all_to_all(received.view(-1), rows.view(-1), counts=elements)
        return received

    def rotate(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Copied when it is waited for, by this worker itself."""
        return lambda: self._rotated(tensor)

    def _rotated(self, tensor: Tensor) -> Tensor:
        received = torch.empty_like(tensor)
        counts = [
            [tensor.numel() * (receiver == (sender + 1) % self.size) for receiver in range(self.size)]
            for sender in range(self.size)
        ]
        self._transport.all_to_all(received.view(-1), tensor.view(-1), counts=counts)
        return received

    def close(self) -> None:
        """Gives the shared memory back."""
        self._transport.close()
