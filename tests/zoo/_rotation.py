"""Which part of the zoo the test suite runs today: all of it would take an hour."""

import datetime
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def of_today(items: Sequence[Item], *, every: int, offset: int = 0, lasting: int = 1) -> list[Item]:
    """Each `every`-th item, beginning with another one every day.

    Args:
        items: all.
        every: after so many days each has had its turn.
        offset: moves the beginning, so that several lists do not show the same items on one day.
        lasting: days for which it is the same: a list that is shown every second day would skip every second item.
    """
    day = datetime.datetime.now(tz=datetime.UTC).toordinal()
    return list(items[(day // lasting + offset) % every :: every])
