"""How workers that wait for nobody are brought together: one calls them, and all come or none does.

A worker may have done all its steps, or be waiting for the others before a checkpoint, when a call reaches them; it
cannot take steps then, so it declines, and those that have come go on. A call is declined before a worker comes to it,
never after, so that all of them see the same answer. The counters are in the store of the process group, whose
additions are one after another: a worker says that it waits before it looks for calls, and the caller calls before it
looks for those that wait, so that one of the two sees the other.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

from meshwright.units import Seconds

# How long a worker that has come sleeps between two looks at the counters.
_NAP: Seconds = 0.002


class Assembly:
    """One worker's part.

    Args:
        name: never used before; the same on all workers.
        size: workers.
    """

    def __init__(self, name: str, *, size: int) -> None:
        self._store: Any = dist.PrefixStore(f"{name}/assembly", dist.distributed_c10d._get_default_store())
        self._size = size
        self._answered = 0

    def call(self) -> None:
        """Calls all workers, unless an earlier call is open; one worker only does that."""
        if self.is_called():
            return
        number = self._store.add("called", 1)
        if self._store.add("waiting", 0):
            self._store.add(f"{number}/declined", 1)

    def is_called(self) -> bool:
        """Whether there is a call to which this worker has not come yet."""
        return self._store.add("called", 0) > self._answered

    def come(self) -> bool:
        """Comes to the oldest open call and waits; whether all have come, which is the same on all workers."""
        self._answered += 1
        number = self._answered
        arrived = self._store.add(f"{number}/arrived", 1)
        while arrived < self._size and not self._store.add(f"{number}/declined", 0):
            time.sleep(_NAP)
            arrived = self._store.add(f"{number}/arrived", 0)
        return not self._store.add(f"{number}/declined", 0)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Inside of it this worker waits for others, and comes to no call."""
        self._store.add("waiting", 1)
        for number in range(self._answered + 1, self._store.add("called", 0) + 1):
            self._store.add(f"{number}/declined", 1)
        yield
        self._store.add("waiting", -1)
