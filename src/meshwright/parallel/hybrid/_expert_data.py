"""Data axes around a model with spread experts: what all have is summed over all, an expert over those who have it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from torch import Tensor, nn

from meshwright.parallel._parallelized import Held, Parallelized
from meshwright.parallel._pieces import Piece
from meshwright.units import Seconds


class ExpertData(Parallelized):
    """Two sets of parameters of one model, with a group of workers each.

    Args:
        common: what every data rank has; steps the optimizer for both.
        experts: what the ranks with the same experts have.
    """

    def __init__(self, common: Parallelized, experts: Parallelized) -> None:
        self._common = common
        self._experts = experts

    @property
    def model(self) -> nn.Module:
        """The user's model."""
        return self._common.model

    @property
    def forwards_together(self) -> bool:
        """Always: tokens of every rank meet in the forward."""
        return True

    @property
    def communication_seconds(self) -> Seconds:
        """Time of the last step in both exchanges (s)."""
        return self._common.communication_seconds + self._experts.communication_seconds

    @contextmanager
    def _both(self, last: bool) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self._common.micro_batch(last))
            stack.enter_context(self._experts.micro_batch(last))
            yield

    def micro_batch(self, last: bool) -> AbstractContextManager[object]:
        """Sends both sets' gradients during the last backward of a step."""
        return self._both(last)

    def reduce(self, divisor: float) -> None:
        """Makes every gradient the sum over the workers that have the parameter, divided."""
        self._common.reduce(divisor)
        self._experts.reduce(divisor)

    def clip(self, max_norm: float) -> Tensor:
        """Not by halves: the whole norm is the split model's to take."""
        raise NotImplementedError("the split model clips by the norm over both")

    def update(self) -> None:
        """Steps the optimizer."""
        self._common.update()

    def zero_gradients(self) -> None:
        """Forgets all gradients."""
        self._common.zero_gradients()
        self._experts.zero_gradients()

    def full_gradients(self) -> dict[str, Tensor | None]:
        """Copies of what this worker has."""
        return self._common.full_gradients() | self._experts.full_gradients()

    def full_parameters(self) -> dict[str, Tensor]:
        """Copies of what this worker has."""
        return self._common.full_parameters() | self._experts.full_parameters()

    def full_state_dict(self) -> dict[str, Tensor]:
        """A copy of what this worker has."""
        return self._common.full_state_dict()

    def held(self) -> list[Held]:
        """Both sets."""
        return [*self._common.held(), *self._experts.held()]

    def held_state(self) -> list[Piece]:
        """What this worker has."""
        return self._common.held_state()

    def close(self) -> None:
        """Closes both exchanges."""
        self._experts.close()
        self._common.close()
