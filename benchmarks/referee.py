"""Keeps the processes of several contestants alive and lets them train in turns."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

HERE = Path(__file__).resolve().parent
START_LIMIT = 300.0
AS_WRITTEN = (
    "workers=1", "matrix_library=default", "optimizer=as_written", "allocator=default", "memory_format=as_written",
    "recompute=none", "accumulation=1", "random=default",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way of training: its launcher and a stream to each of its processes, rank 0 first."""

    launcher: subprocess.Popen[bytes]
    streams: tuple[IO[str], ...]

    def train(self, steps: int) -> float:
        """Seconds that rank 0 needed for so many steps."""
        for stream in self.streams:
            print(steps, file=stream, flush=True)
        return max(json.loads(stream.readline()) for stream in self.streams)


def command(way: str, job: str, port: int, folder: Path) -> list[str]:
    """The command line that starts a way of training a job."""
    script = [str(HERE / "contestant.py"), way, job, str(port)]
    binaries = Path(sys.executable).parent
    if way in ("ddp", "accelerate"):
        return [str(binaries / "torchrun"), "--standalone", "--nproc-per-node", "2", *script]
    # a planning process that went on for the report's reference would report here as a contestant
    run = [str(binaries / "meshwright"), "run", "--reference", "0", "--output", str(folder / way)]
    if way == "meshwright":
        return [*run, *script]
    if way.startswith("meshwright_one_"):
        (plan,) = (folder / "meshwright_one").glob("*/plan.toml")
        return [*run, "--plan", str(plan), *script]
    if way == "meshwright_one":
        pins = [*AS_WRITTEN, f"threads={os.cpu_count()}"]
        sets = [word for pin in pins for word in ("--set", pin)]
        return [*run, *sets, *script]
    return [sys.executable, *script]


class Contest:
    """Contestants of one job; a context manager that ends all their processes."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(1.0)
        self._contestants: dict[str, Contestant] = {}
        self._launchers: list[subprocess.Popen[bytes]] = []
        self._started: dict[str, float] = {}

    @property
    def port(self) -> int:
        """Where contestants report."""
        return int(self._server.getsockname()[1])

    def start(self, way: str, arguments: Sequence[str]) -> None:
        """Starts a contestant and waits until all its processes are warm."""
        log = (self._logs / f"{way}.log").open("wb")
        self._started[way] = time.time()
        launcher = subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True)
        self._launchers.append(launcher)
        streams: dict[int, IO[str]] = {}
        world = 1
        while len(streams) < world:
            connection = self._accept(way, launcher)
            stream = connection.makefile("rw")
            hello = json.loads(stream.readline())
            world = hello["world"]
            streams[hello["rank"]] = stream
        self._contestants[way] = Contestant(launcher, tuple(streams[rank] for rank in range(world)))

    def _accept(self, way: str, launcher: subprocess.Popen[bytes]) -> socket.socket:
        limit = time.monotonic() + START_LIMIT
        while time.monotonic() < limit and launcher.poll() is None:
            try:
                return self._server.accept()[0]
            except TimeoutError:
                continue
        sys.exit(f"{way} did not start (exit code {launcher.poll()}); its output is in {self._logs / way}.log")

    def rounds(self, count: int, *, block: float) -> dict[str, list[float]]:
        """Seconds per step of every contestant in every round; the order rotates from round to round."""
        ways = list(self._contestants)
        steps = {way: self._steps(way, block) for way in ways}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(count):
            shift = number % len(ways)
            for way in ways[shift:] + ways[:shift]:
                seconds[way].append(self._contestants[way].train(steps[way]) / steps[way])
        return seconds

    def started(self, way: str) -> float:
        """When a contestant's command was started (s since the epoch)."""
        return self._started[way]

    def _steps(self, way: str, block: float) -> int:
        trial = 3
        return max(3, round(block / (self._contestants[way].train(trial) / trial)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for contestant in self._contestants.values():
            for stream in contestant.streams:
                stream.close()
        self._server.close()
        for launcher in self._launchers:
            try:
                launcher.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(launcher.pid, signal.SIGKILL)
