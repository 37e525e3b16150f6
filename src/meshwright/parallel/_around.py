"""Something around another way to run a step: what it does not change is the other's."""

from contextlib import AbstractContextManager
from typing import Generic, TypeVar

from torch import Tensor, nn

from meshwright.parallel._parallelized import Held, Parallelized
from meshwright.parallel._pieces import Piece
from meshwright.units import Seconds

Inner = TypeVar("Inner", bound=Parallelized)


class Around(Parallelized, Generic[Inner]):
    """Forwards every member to what it is around.

    Args:
        inner: what that is.
    """

    def __init__(self, inner: Inner) -> None:
        self._inner = inner
        self.optimizer = inner.optimizer

    @property
    def model(self) -> nn.Module:
        """As inside."""
        return self._inner.model

    @property
    def forwards_together(self) -> bool:
        """As inside."""
        return self._inner.forwards_together

    @property
    def communication_seconds(self) -> Seconds:
        """As inside (s)."""
        return self._inner.communication_seconds

    def micro_batch(self, last: bool) -> AbstractContextManager[object]:
        """As inside."""
        return self._inner.micro_batch(last)

    def reduce(self, divisor: float) -> None:
        """As inside."""
        self._inner.reduce(divisor)

    def clip(self, max_norm: float) -> Tensor:
        """As inside."""
        return self._inner.clip(max_norm)

    def stepping(self) -> AbstractContextManager[object]:
        """As inside."""
        return self._inner.stepping()

    def zero_gradients(self) -> None:
        """As inside."""
        self._inner.zero_gradients()

    def full_gradients(self) -> dict[str, Tensor | None]:
        """As inside."""
        return self._inner.full_gradients()

    def full_parameters(self) -> dict[str, Tensor]:
        """As inside."""
        return self._inner.full_parameters()

    def full_state_dict(self) -> dict[str, Tensor]:
        """As inside."""
        return self._inner.full_state_dict()

    def held(self) -> list[Held]:
        """As inside."""
        return self._inner.held()

    def held_state(self) -> list[Piece]:
        """As inside."""
        return self._inner.held_state()

    def close(self) -> None:
        """As inside."""
        self._inner.close()
