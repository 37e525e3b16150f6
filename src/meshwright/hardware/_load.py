"""The load while something went on: the share of the processor's time that went to others meanwhile."""

import time
from contextlib import suppress
from dataclasses import dataclass

import psutil

from meshwright.units import Seconds

# The kernel counts in ticks of 10 ms; over less than this, one tick more or less is several percent.
SHORTEST: Seconds = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessorTimes:
    """Processor time since a moment that does not matter (s).

    Args:
        total: of all cores, idle or not.
        idle: of it, what nobody used.
        own: of it, what a process and its descendants used.
    """

    total: Seconds
    idle: Seconds
    own: Seconds


def load_between(before: ProcessorTimes, after: ProcessorTimes) -> float:
    """Share of the processor that others used between two moments (0 to 1).

    What a hypervisor took for other machines counts as used by others: it is missing just as much.
    """
    total = after.total - before.total
    if total <= 0:
        return 0.0
    others = total - (after.idle - before.idle) - (after.own - before.own)
    return min(1.0, max(0.0, others / total))


class LoadMeter:
    """Measures from when it is made.

    Args:
        root: the process whose time, with that of all its descendants, is not load; None: this one.
    """

    def __init__(self, root: int | None = None) -> None:
        self._root = root
        self._begun = time.monotonic()
        self._before = _times(root)

    def read(self) -> float:
        """Share of the processor that others used since then (0 to 1); waits where that was too short ago to tell."""
        time.sleep(max(0.0, SHORTEST - (time.monotonic() - self._begun)))
        return load_between(self._before, _times(self._root))


def _times(root: int | None) -> ProcessorTimes:
    host = psutil.cpu_times()
    # what guests of this machine use is in `user` already
    total = sum(host) - getattr(host, "guest", 0.0) - getattr(host, "guest_nice", 0.0)
    return ProcessorTimes(total=total, idle=host.idle + getattr(host, "iowait", 0.0), own=_of_family(root))


def _of_family(root: int | None) -> Seconds:
    """Of a process, its descendants, and those of them that have ended and were waited for."""
    spent = 0.0
    with suppress(psutil.Error):
        first = psutil.Process(root)
        for member in (first, *first.children(recursive=True)):
            with suppress(psutil.Error):
                used = member.cpu_times()
                spent += used.user + used.system + used.children_user + used.children_system
    return spent
