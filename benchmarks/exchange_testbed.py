"""Trains one way on the hosts of a testbed, phase after phase, and measures its link as a run does before it plans."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from exchange_cells import SLOWED, Cell, Learnt, steps_of
from meshwright.documents import read_toml
from meshwright.hardware import Link
from testbed import PORT, Testbed
from testbed_description import Description, parse_rate
from testbed_network import Network

HERE = Path(__file__).resolve().parent
SLOWER = 10
START_LIMIT = 300.0
STEP_LIMIT = 600.0


class RunError(Exception):
    """A way did not come to its end; says what its host said last."""


def train(
    way: str, hosts: Description, links: Sequence[str], *, kind: str, seed: int, rate: float, learning: int,
    options: argparse.Namespace,
) -> tuple[list[Cell], Learnt]:  # fmt: skip
    """Trains one way on all links."""
    folder = Path(tempfile.mkdtemp(prefix="exchange-"))
    output = folder / "result"
    steps = [steps_of(way, link, learning=learning) for link in links]
    words = [way, "--output", str(output), "--phases", ",".join(map(str, steps))]
    words += ["--evaluate", str(max(1, learning // 10)), "--batch", str(options.batch), "--rate", str(rate)]
    words += ["--seed", str(seed), "--bucket", str(options.bucket)]
    sent: list[int] = []
    count = len(hosts.hosts)
    with Testbed(hosts) as bed, (folder / "log").open("wb") as log:
        processes = [
            bed.start(rank, [*_contestant(rank, count), *words], output=log, errors=log) for rank in range(count)
        ]
        for phase in range(len(links) + 1):
            _await(output.with_suffix(f".{phase}.ready"), processes, log=folder / "log")
            sent.append(max(link.sent for link in bed.traffic()))
            if phase < len(links):
                _set(bed, hosts, links[phase])
            output.with_suffix(f".{phase}.go").touch()
        processes[0].wait(timeout=60)
    result = json.loads(output.read_text())
    cells = [
        Cell(
            way=way, hosts=kind, link=link, seconds=_typical(way, times), shares=tuple(result["shares"]), seed=seed,
            sent=(sent[phase + 1] - sent[phase]) / len(times),
        )
        for phase, (link, times) in enumerate(zip(links, result["phases"], strict=True))
    ]  # fmt: skip
    return cells, Learnt(way=way, hosts=kind, losses=tuple(map(tuple, result["losses"])), seed=seed)


def measured_link(hosts: Description, link: str) -> Link:
    """What a run over these hosts finds before it plans."""
    folder = Path(tempfile.mkdtemp(prefix="exchange-"))
    count = len(hosts.hosts)
    with Testbed(hosts) as bed, (folder / "log").open("wb") as log:
        _set(bed, hosts, link)
        words = ["link", "--output", str(folder / "link.toml")]
        processes = [
            bed.start(rank, [*_contestant(rank, count), *words], output=log, errors=log) for rank in range(count)
        ]
        if any(process.wait(timeout=START_LIMIT) for process in processes):
            raise RunError(f"the link was not measured:\n{(folder / 'log').read_text(errors='replace')[-2000:]}")
    return read_toml(Link, folder / "link.toml")


def _contestant(rank: int, count: int) -> list[str]:
    words = [sys.executable, str(HERE / "exchange_contestant.py"), "--rank", str(rank), "--hosts", str(count)]
    return [*words, "--address", Network.address(0), "--port", str(PORT)]


def _set(bed: Testbed, hosts: Description, link: str) -> None:
    """Shapes all links, or slows the last host down."""
    last = len(hosts.hosts) - 1
    if link == SLOWED:
        bed.limit(last, cpus=hosts.hosts[last].cpus / SLOWER)
        return
    for rank in range(last + 1):
        bed.set_rate(rank, 0.0 if link == "unshaped" else parse_rate(link))


def _typical(way: str, times: Sequence[float]) -> float:
    """Of a step: the median, or the mean over whole intervals where steps differ."""
    return sum(times) / len(times) if way.startswith("local") else median(times[1:] or times)


def _await(file: Path, processes: "Sequence[subprocess.Popen[bytes]]", *, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT + STEP_LIMIT
    while not file.exists():
        ended = [process.returncode for process in processes if process.poll() is not None]
        if ended or time.monotonic() > deadline:
            raise RunError(f"a host ended with status {ended}:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)
