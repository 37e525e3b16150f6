"""Processes that measure together: the leader asks, every process does the same work at the same time."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext, SpawnContext
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from threading import BrokenBarrierError
from time import monotonic
from typing import Any

from meshwright.errors import HardwareError
from meshwright.units import Seconds

PATIENCE: Seconds = 60.0  # beyond the whole probe's 30 s: a process that is later than this has died or hangs


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A process's place in a group that measures together.

    Args:
        rank: its number; the leader is 0.
        group: how many take part.
        together: returns when all of them have called it.
    """

    rank: int
    group: int
    together: Callable[[], object]


Work = Callable[..., Any]
Context = ForkContext | SpawnContext


def fastest_context() -> Context:
    """How to start followers soonest, before torch has threads or devices."""
    return ForkContext() if sys.platform == "linux" else SpawnContext()


class Crew:
    """The leader and its processes, which sleep until they are asked.

    Args:
        processes: of the followers.
        pipes: to each follower.
        barriers: by number of members that meet.
    """

    def __init__(
        self, processes: Sequence[BaseProcess], pipes: Sequence[Connection], barriers: dict[int, Barrier]
    ) -> None:
        self._processes = processes
        self._pipes = pipes
        self._barriers = barriers

    def run(self, group: int, work: Work, *args: Any) -> list[Any]:
        """What `work(member, *args)` gives on each of `group` processes, the leader's first.

        Raises:
            HardwareError: a process died or gave no answer.
        """
        for rank, pipe in enumerate(self._pipes[: group - 1], start=1):
            pipe.send((rank, group, work, args))
        try:
            results = [work(self._member(0, group), *args)]
        except BrokenBarrierError:
            raise _silent(group) from None
        for follower in range(group - 1):
            answer = self._answer(follower, group)
            if isinstance(answer, Exception):
                raise answer
            results.append(answer)
        return results

    def _answer(self, follower: int, group: int) -> Any:
        end = monotonic() + PATIENCE
        try:
            while not self._pipes[follower].poll(0.2):
                if monotonic() > end or not self._processes[follower].is_alive():
                    raise _silent(group)
            return self._pipes[follower].recv()
        except (EOFError, OSError):
            raise _silent(group) from None

    def close(self) -> None:
        """Ends the followers."""
        for pipe in self._pipes:
            with suppress(OSError):
                pipe.send(None)
            pipe.close()
        for process in self._processes:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()

    def _member(self, rank: int, group: int) -> Member:
        return Member(rank=rank, group=group, together=_meeting(self._barriers, group))


@contextmanager
def crew(size: int, *, groups: Sequence[int], context: Context) -> Iterator[Crew]:
    """Starts `size - 1` processes beside this one and ends them afterwards.

    Args:
        size: processes, this one included.
        groups: numbers of processes that will measure together.
        context: how they are started: forking spares loading torch again, but only goes well while torch has neither
            threads nor devices.
    """
    barriers = {group: context.Barrier(group, timeout=PATIENCE) for group in groups if group > 1}
    pairs = [context.Pipe() for _ in range(size - 1)]
    processes = [
        context.Process(target=_follow, args=(there, barriers, os.getpid()), daemon=True) for _, there in pairs
    ]
    for process in processes:
        process.start()
    for _, there in pairs:
        there.close()
    members = Crew(processes, [here for here, _ in pairs], barriers)
    try:
        yield members
    finally:
        members.close()


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Keeps this process on one core, as a worker will be, where the system can do that; None: on any."""
    if core is None or sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _silent(group: int) -> HardwareError:
    return HardwareError(
        f"one of {group} processes that measure together ended or gave no answer for {PATIENCE:.0f} s",
        cause="it was killed (too little memory?), or the machine is too busy to measure",
        command="meshwright hardware --fresh",
    )


def _follow(pipe: Connection, barriers: dict[int, Barrier], leader: int) -> None:
    while True:
        while not pipe.poll(1.0):
            if os.getppid() != leader:  # it was killed: forked pipes stay open, so that its end shows only here
                return
        request = pipe.recv()
        if request is None:
            return
        rank, group, work, args = request
        try:
            pipe.send(work(Member(rank=rank, group=group, together=_meeting(barriers, group)), *args))
        except Exception as error:  # the leader raises it: only it has someone to tell
            pipe.send(error)


def _meeting(barriers: dict[int, Barrier], group: int) -> Callable[[], object]:
    return barriers[group].wait if group > 1 else int
