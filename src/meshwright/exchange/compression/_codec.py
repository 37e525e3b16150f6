"""What an encoding of gradients does: values to bytes, and back."""

from abc import ABC, abstractmethod

from torch import Tensor


class Codec(ABC):
    """Encodes tensors whose length is a multiple of `block`.

    A message's length depends on the number of values alone, so that every worker knows it. Reading its own message, a
    worker finds out what it left out.
    """

    @property
    @abstractmethod
    def block(self) -> int:
        """What the number of values has to be a multiple of."""

    @abstractmethod
    def compress(self, values: Tensor, *, draw: int) -> Tensor:
        """Values as bytes.

        Args:
            values: float32, contiguous.
            draw: the same on every worker, for what is chosen at random.
        """

    @abstractmethod
    def decompress(self, message: Tensor, into: Tensor, *, weight: float, draw: int) -> None:
        """Adds a message's values times a weight.

        Args:
            message: of `compress`.
            into: as many values as were compressed.
            weight: factor of the values.
            draw: that the message was made with.
        """

    @abstractmethod
    def refine(self) -> bool:
        """Encodes more exactly from now on; False where it cannot."""
