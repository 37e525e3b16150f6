"""Whether something that usually leaves a part out is exact for a while."""

from collections.abc import Iterator
from contextlib import contextmanager


class Exactness:
    """Asked before each exchange; says no until a block is entered.

    Attributes:
        holds: whether it is exact now.
    """

    def __init__(self) -> None:
        self.holds = False

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Exact inside of it; not any more when it is left, however that happens."""
        self.holds = True
        try:
            yield
        finally:
            self.holds = False
