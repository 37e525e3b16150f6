"""What carries tensors between workers, whatever it is made of."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


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
    """

    @property
    @abstractmethod
    def rank(self) -> int:
        """This worker's number in the group."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Workers in the group."""

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
    def reduce(self, tensor: Tensor, *, root: int) -> Transfer:
        """Sums a contiguous tensor over the workers, in place, on the root; elsewhere its values are spent."""

    @abstractmethod
    def broadcast(self, tensor: Tensor, *, root: int) -> Transfer:
        """Gives every worker the root's contiguous tensor, in place."""

    @abstractmethod
    def close(self) -> None:
        """Gives back what the transport holds. No collective may be under way."""
