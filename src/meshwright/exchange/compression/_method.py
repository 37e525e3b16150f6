"""What every way to sum a bucket by sending less than all of it does."""

from abc import ABC, abstractmethod

from torch import Tensor

from meshwright.exchange._wire import Wire


class Method(ABC):
    """Sums one bucket of gradients; one object for each bucket on every worker, all called alike.

    What a step does not send is carried over, so that over the steps everything is sent: after each step the sum of all
    that was given back plus what the workers carry is the sum of all gradients.
    """

    @abstractmethod
    def sum(self, values: Tensor, wire: Wire, *, draw: int) -> None:
        """Makes the values the sum over the workers, nearly, with the same bits on every worker.

        Args:
            values: the bucket's gradients, in place.
            wire: between the workers.
            draw: a number that is the same on every worker and another one in every step, for what is chosen at random.
        """

    @abstractmethod
    def elements(self) -> dict[str, Tensor]:
        """What it keeps from step to step, element by element of the bucket; to be read and overwritten in place.

        Every worker has its own. What counts is their sum over the workers.
        """

    @abstractmethod
    def factors(self) -> dict[int, Tensor]:
        """What it keeps by parameter, by its position in the bucket; the same on every worker."""

    @abstractmethod
    def refine(self) -> bool:
        """Sends more from the next step on; False where it cannot."""
