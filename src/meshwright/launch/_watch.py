"""Waiting for processes until they ended, failed, took too long, or somebody pressed Ctrl-C."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from meshwright.launch._interrupt import Interrupts
from meshwright.launch._processes import GRACE, Exit, Processes
from meshwright.units import Seconds

TICK: Seconds = 0.1
Ending = Literal["finished", "failed", "interrupted", "late"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """How a group of processes ended.

    Args:
        ending: `finished` where all (or the leader) ended with code 0; `late` where the limit was passed.
        failures: those that ended with another code by themselves.
    """

    ending: Ending
    failures: tuple[Exit, ...] = ()


def watch(
    processes: Processes,
    *,
    interrupts: Interrupts,
    refresh: Callable[[], None],
    leader: int | None = None,
    limit: Seconds = float("inf"),
) -> Watched:
    """Waits for processes; afterwards none of them runs.

    Args:
        processes: which.
        interrupts: requests to stop.
        refresh: called about ten times per second.
        leader: the one whose end is the end of all; None: the last one's.
        limit: longest time (s).
    """
    deadline = time.monotonic() + limit
    while True:
        processes.wait(TICK)
        exits = processes.ended()
        refresh()
        failures = tuple(dead for dead in exits if dead.code != 0)
        if interrupts.count:
            _interrupt(processes, interrupts=interrupts, refresh=refresh)
            return Watched(ending="interrupted")
        if failures:
            processes.stop()
            refresh()
            return Watched(ending="failed", failures=failures)
        if not processes.running or any(dead.rank == leader for dead in exits):
            processes.kill()
            return Watched(ending="finished")
        if time.monotonic() > deadline:
            processes.stop()
            return Watched(ending="late")


def _interrupt(processes: Processes, *, interrupts: Interrupts, refresh: Callable[[], None]) -> None:
    """Asks every process to end; kills them at the second request or when they took too long."""
    processes.send(signal.SIGINT)
    deadline = time.monotonic() + GRACE + 2.0
    while processes.running and interrupts.count == 1 and time.monotonic() < deadline:
        processes.wait(TICK)
        processes.ended()
        refresh()
    processes.kill()
    refresh()
