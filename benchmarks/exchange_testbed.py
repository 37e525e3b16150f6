"""Trains runs on the hosts of a testbed, phase after phase, and measures its link as a run does before it plans."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import IO

from exchange_cells import SLOWED, Cell, Learnt, Run, description, learnt_of
from exchange_orders import INTERVAL, Answer, read_answer, write_orders
from exchange_ways import trains_apart
from meshwright.documents import read_toml
from meshwright.hardware import Link
from testbed import PORT, Testbed
from testbed_description import Description, parse_rate
from testbed_network import Network

HERE = Path(__file__).resolve().parent
SLOWER = 10
LIMIT = 600.0  # s that a phase may take, with the start of the hosts


class RunError(Exception):
    """A way did not come to its end; says what its host said last."""


def train(runs: Sequence[Run], *, python: Path = Path(sys.executable)) -> Iterator[tuple[Run, list[Cell], Learnt]]:
    """Trains runs of one group of hosts, one after another in the same processes; gives each when it has ended.

    Args:
        runs: of the same hosts.
        python: the interpreter that has what they need.

    Raises:
        RunError: a host failed.
    """
    group = runs[0].group
    hosts = description(group.count, is_half=group.is_half)
    with tempfile.TemporaryDirectory(prefix="exchange-") as name, Testbed(hosts) as bed:
        folder = Path(name)
        write_orders(folder / "orders.json", [run.order for run in runs])
        first_links = [*(run.links[0] for run in runs), "unshaped"]
        _set(bed, hosts, first_links[0])
        with (folder / "log").open("wb") as log:
            processes = _started(bed, hosts, folder, python=python, log=log)
        for number, run in enumerate(runs):
            sent = []
            for phase, link in enumerate([*run.links, first_links[number + 1]]):
                _await(folder / f"{number}.{phase}.ready", processes, log=folder / "log")
                sent.append(max(traffic.sent for traffic in bed.traffic()))
                _set(bed, hosts, link)
                (folder / f"{number}.{phase}.go").touch()
            _await(folder / f"{number}.json", processes, log=folder / "log")
            answer = read_answer(folder / f"{number}.json")
            yield run, _cells(run, answer, sent), learnt_of(run, answer)
        for process in processes:
            process.wait(timeout=60)


def _cells(run: Run, answer: Answer, sent: Sequence[int]) -> list[Cell]:
    """One for each link; none of a run that learns: what that does between steps is no part of one."""
    if run.learning:
        return []
    return [
        Cell(
            way=run.way, hosts=run.group.hosts, link=link, seconds=_typical(run, answer, phase), shares=answer.shares,
            sent=(sent[phase + 1] - sent[phase]) / len(answer.seconds[phase]), gradient_error=answer.gradient_error,
        )
        for phase, link in enumerate(run.links)
    ]  # fmt: skip


def _typical(run: Run, answer: Answer, phase: int) -> float:
    """Of a step: the median without the first; the mean over an interval where steps differ, or over the others."""
    if run.order.phases[phase].seconds:
        speeds = answer.speeds[phase][:-1]
        return len(speeds) / sum(speeds)
    times = answer.seconds[phase]
    return sum(times[-INTERVAL:]) / INTERVAL if trains_apart(run.way) else median(times[1:] or times)


def measured_link(link: str) -> Link:
    """What a run over two hosts finds before it plans."""
    hosts = description(2, is_half=False)
    with tempfile.TemporaryDirectory(prefix="exchange-") as name, Testbed(hosts) as bed:
        folder = Path(name)
        _set(bed, hosts, link)
        with (folder / "log").open("wb") as log:
            processes = _started(bed, hosts, folder, python=Path(sys.executable), log=log)
        if any(process.wait(timeout=LIMIT) for process in processes):
            raise RunError(f"the link was not measured:\n{(folder / 'log').read_text(errors='replace')[-2000:]}")
        return read_toml(Link, folder / "link.toml")


def _started(
    bed: Testbed, hosts: Description, folder: Path, *, python: Path, log: IO[bytes]
) -> "list[subprocess.Popen[bytes]]":
    """What every host runs."""
    count = len(hosts.hosts)
    words = [str(python), str(HERE / "exchange_contestant.py"), str(folder), "--hosts", str(count)]
    words += ["--address", Network.address(0), "--port", str(PORT)]
    return [bed.start(rank, [*words, "--rank", str(rank)], output=log, errors=log) for rank in range(count)]


def _set(bed: Testbed, hosts: Description, link: str) -> None:
    """Shapes all links, or slows the last host down."""
    last = len(hosts.hosts) - 1
    bed.limit(last, cpus=hosts.hosts[last].cpus / (SLOWER if link == SLOWED else 1))
    if link != SLOWED:
        for rank in range(last + 1):
            bed.set_rate(rank, 0.0 if link == "unshaped" else parse_rate(link))


def _await(file: Path, processes: "Sequence[subprocess.Popen[bytes]]", *, log: Path) -> None:
    deadline = time.monotonic() + LIMIT
    while not file.exists():
        status = [process.poll() for process in processes]
        if any(status) or None not in status or time.monotonic() > deadline:
            raise RunError(f"the hosts' status is {status}:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)
