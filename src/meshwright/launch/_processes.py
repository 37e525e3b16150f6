"""Processes that were started here, and that end when their owner does."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from meshwright.errors import WorkerError
from meshwright.units import Seconds

GRACE: Seconds = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Exit:
    """A process that ended.

    Args:
        rank: which.
        code: exit code; the negative number of the signal that killed it.
    """

    rank: int
    code: int


class Processes:
    """A group of processes; leaving the `with` block ends every one of them and its children.

    Each is the head of a session of its own: a terminal's Ctrl-C reaches this process only, which then decides.
    """

    def __init__(self) -> None:
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, rank: int, command: Sequence[str], *, environment: Mapping[str, str], out: Path, err: Path) -> None:
        """Starts one process.

        Args:
            rank: number it is known by here.
            command: program and arguments.
            environment: all of its environment.
            out: file its output goes to.
            err: file its errors go to.

        Raises:
            WorkerError: the operating system refuses.
        """
        try:
            with out.open("wb") as stdout, err.open("wb") as stderr:
                self._running[rank] = subprocess.Popen(
                    command,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,
                )
        except OSError as error:
            raise WorkerError(
                f"worker {rank} could not be started: {error.strerror}", cause=f"starting {command[0]} failed"
            ) from None

    @property
    def running(self) -> tuple[int, ...]:
        """Ranks of the processes that have not been seen to end."""
        return tuple(self._running)

    def ended(self) -> tuple[Exit, ...]:
        """The processes that ended since the last time this was asked."""
        exits = []
        for rank, process in list(self._running.items()):
            code = process.poll()
            if code is not None:
                del self._running[rank]
                exits.append(Exit(rank=rank, code=code))
        return tuple(exits)

    def wait(self, duration: Seconds) -> None:
        """Waits for at most `duration` (s), shorter where the first process ends."""
        if not self._running:
            return
        first = next(iter(self._running.values()))
        with contextlib.suppress(subprocess.TimeoutExpired):
            first.wait(timeout=duration)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to every running process."""
        for process in self._running.values():
            process.send_signal(number)

    def stop(self, grace: Seconds = GRACE) -> tuple[Exit, ...]:
        """Ends every process: asks, waits for `grace` (s), then kills it and its children; returns how they ended."""
        descendants = self._descendants()
        self.send(signal.SIGTERM)
        exits = list(self._join(grace))
        for rank, process in self._running.items():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            exits.append(Exit(rank=rank, code=process.wait()))
        self._running.clear()
        for child in descendants:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        return tuple(exits)

    def kill(self) -> tuple[Exit, ...]:
        """Ends every process and its children at once."""
        return self.stop(grace=0.0)

    def _join(self, grace: Seconds) -> tuple[Exit, ...]:
        deadline = time.monotonic() + grace
        exits: tuple[Exit, ...] = self.ended()
        while self._running and time.monotonic() < deadline:
            self.wait(0.05)
            exits += self.ended()
        return exits

    def _descendants(self) -> list[psutil.Process]:
        """Children of the processes; psutil remembers their start time, so that a number used again is not killed."""
        found = []
        for process in self._running.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                found += psutil.Process(process.pid).children(recursive=True)
        return found
