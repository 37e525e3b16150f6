"""Data axes around a model with spread experts: what all have is summed over all, an expert over those who have it."""

from collections.abc import Iterator
from contextlib import contextmanager

from meshwright.parallel._parallelized import Held, Parallelized
from meshwright.units import Seconds


class ExpertData:
    """Two sets of parameters of one model, with a group of workers each, stepped by one optimizer.

    Args:
        common: what every data rank has.
        experts: what the ranks with the same experts have.
    """

    # tokens of every rank meet in the forward
    forwards_together = True

    def __init__(self, common: Parallelized, experts: Parallelized) -> None:
        self._common = common
        self._experts = experts

    @property
    def communication_seconds(self) -> Seconds:
        """Time of the last step in both exchanges (s)."""
        return self._common.communication_seconds + self._experts.communication_seconds

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Sends both sets' gradients during the last backward of a step."""
        with self._common.micro_batch(last), self._experts.micro_batch(last):
            yield

    def reduce(self, divisor: float) -> None:
        """Makes every gradient the sum over the workers that have the parameter, divided."""
        self._common.reduce(divisor)
        self._experts.reduce(divisor)

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """The optimizer steps what this worker owns of both sets."""
        with self._common.stepping(), self._experts.stepping():
            yield

    def zero_gradients(self) -> None:
        """Forgets all gradients."""
        self._common.zero_gradients()
        self._experts.zero_gradients()

    def held(self) -> list[Held]:
        """Both sets."""
        return [*self._common.held(), *self._experts.held()]

    def close(self) -> None:
        """Closes both exchanges."""
        self._experts.close()
        self._common.close()
