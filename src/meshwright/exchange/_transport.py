"""What carries tensors between workers, whatever it is made of."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

# Takes what it needs from a tensor that is another worker's, or about to be overwritten.
Receive = Callable[[Tensor], object]


class Transfer(ABC):
    """A collective under way on this worker; the tensor belongs to it until it is done."""

    @abstractmethod
    def advance(self) -> bool:
        """Does what can be done without waiting for another worker; whether the collective is done."""

    @abstractmethod
    def wait(self) -> None:
        """Waits until the collective is done.

        Raises:
            WorkerError: another worker has ended, or does not answer.
        """


class Transport(ABC):
    """Collectives of a fixed group of workers.

    Every worker starts the same collectives in the same order; different transports are independent of each other.
    Sums are taken in the order of the ranks, so every worker gets the same bits, in every run.

    Args:
        group: the workers, which all make the transport at the same time; None: all of them.

    Attributes:
        rank: this worker's number in the group.
        size: workers in the group.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    @abstractmethod
    def allocate(self, numel: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory that the transport sends from without a copy, set to zero. Every worker asks for the same."""

    @abstractmethod
    def release(self, tensor: Tensor) -> None:
        """Forgets memory that `allocate` gave; it is freed with the last tensor in it. No collective may use it."""

    @abstractmethod
    def all_reduce(self, tensor: Tensor) -> Transfer:
        """Sums a contiguous tensor over the workers, in place, on every worker."""

    @abstractmethod
    def broadcast(self, tensor: Tensor, *, root: int) -> Transfer:
        """Gives every worker the root's contiguous tensor, in place."""

    @abstractmethod
    def publish(self, tensor: Tensor, *, root: int, receive: Receive) -> Transfer:
        """Shows the root's tensor to all others, who take from it what they need; theirs is spent.

        Args:
            tensor: from `allocate`.
            root: whose is shown.
            receive: called elsewhere than on the root, before the transfer is done.
        """

    @abstractmethod
    def collect(self, tensor: Tensor, *, root: int, receive: Receive) -> Transfer:
        """Shows the others' tensors to the root, one by one or summed; all that it is given adds up to their sum.

        Args:
            tensor: from `allocate`; the root's own counts for nothing, and is spent.
            root: who is shown them.
            receive: called on the root, before the transfer is done, in the same order in every run.
        """

    @abstractmethod
    def close(self) -> None:
        """Gives back what the transport holds. No collective may be under way."""
