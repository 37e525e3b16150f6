"""Which hosts, links and ways the exchange benchmark compares, and what it keeps of each run.

two       2 equal hosts, every link                       four     4 equal hosts, 100 Mbit/s
half      4 hosts, one with half the processor time       slowed   4 hosts, one slowed by 10 times during the run
one_host  processes of one host, no testbed               pick     ways that the planner chooses from, 2 hosts
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from exchange_ways import RIVALS
from testbed_description import Description, HostDescription

LINKS = ("unshaped", "1Gbit/s", "100Mbit/s")
SLOWED = "one slowed 10 ×"  # not a link: the last host's processor time is cut instead
INTERVAL = 16  # steps between two meetings of the local ways
PICKED_FROM = ("exact", "exact_direct", "exact_gloo", "bfloat16", "bfloat16_direct", "bfloat16_gloo", "int8")


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Runs on the same hosts.

    Args:
        hosts: how many, and what of them.
        count: hosts.
        half: whether the last one has half of its part of the processor.
        links: one after another, the learning phase first.
        ways: that are compared.
    """

    hosts: str
    count: int
    half: bool = False
    links: tuple[str, ...]
    ways: tuple[str, ...]


GROUPS = {
    "two": Group(
        hosts="2 equal", count=2, links=LINKS, ways=(*RIVALS, "exact", "exact_direct", "bfloat16", "local_int8")
    ),
    "four": Group(hosts="4 equal", count=4, links=("unshaped", "100Mbit/s"), ways=("ddp", "exact", "local_int8")),
    "half": Group(
        hosts="4, one half", count=4, half=True, links=("unshaped", "1Gbit/s"), ways=("ddp", "exact_direct")
    ),
    "slowed": Group(hosts="4 equal", count=4, links=("unshaped", SLOWED), ways=("asynchronous",)),
    "pick": Group(hosts="2 equal", count=2, links=LINKS, ways=PICKED_FROM),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One way on one link.

    Args:
        way: its name.
        hosts: how many, and whether one has half the processor time.
        link: bandwidth of every host's link.
        seconds: per step, median (s).
        sent: per step, by the busiest host (B).
        shares: examples of each host.
        seed: of weights and examples.
    """

    way: str
    hosts: str
    link: str
    seconds: float
    sent: float
    shares: tuple[int, ...]
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Learnt:
    """How a way's held-out loss falls: steps and losses."""

    way: str
    hosts: str
    losses: tuple[tuple[int, float], ...]
    seed: int = 0

    def at(self, steps: int) -> float:
        """The loss after so many steps, or at the end."""
        return next((value for number, value in self.losses if number >= steps), self.losses[-1][1])

    def steps_to(self, loss: float) -> float:
        """Steps to a loss, between two evaluations in proportion; infinite where it is not reached."""
        earlier = (0, float("inf"))
        for number, value in self.losses:
            if value <= loss:
                gap = earlier[1] - value
                part = (earlier[1] - loss) / gap if 0 < gap < float("inf") else 1.0
                return earlier[0] + part * (number - earlier[0])
            earlier = (number, value)
        return float("inf")


class Ledger:
    """Rows of finished runs, one JSON object in a line of a file, so that a run that is cut off keeps its rows.

    Args:
        path: of the file; None: rows are kept for this run only.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._runs: dict[str, tuple[list[Cell], Learnt]] = {}
        for line in path.read_text().splitlines() if path is not None and path.exists() else ():
            row = json.loads(line)
            cells = [Cell(**cell | {"shares": tuple(cell["shares"])}) for cell in row["cells"]]
            learnt = Learnt(**row["learnt"] | {"losses": tuple(map(tuple, row["learnt"]["losses"]))})
            self._runs[row["run"]] = (cells, learnt)

    def __contains__(self, run: str) -> bool:
        return run in self._runs

    def of(self, run: str) -> tuple[list[Cell], Learnt]:
        """What a run gave."""
        return self._runs[run]

    def add(self, run: str, cells: list[Cell], learnt: Learnt) -> None:
        """Keeps what a run gave."""
        self._runs[run] = (cells, learnt)
        if self._path is not None:
            with self._path.open("a") as file:
                row = {"run": run, "cells": [asdict(cell) for cell in cells], "learnt": asdict(learnt)}
                file.write(json.dumps(row) + "\n")


def description(count: int, *, half: bool) -> Description:
    """Hosts that share this machine's two cores evenly; the last one has half of its part where asked."""
    part = min(1.0, 2 / count)
    return Description(
        hosts=tuple(
            HostDescription(
                name=f"host-{rank}",
                cores=(rank % 2,),
                cpus=part / 2 if half and rank == count - 1 else part,
            )
            for rank in range(count)
        )
    )


def steps_of(way: str, link: str, *, learning: int) -> int:
    """Steps of a phase: the learning phase has so many; local ways need whole intervals elsewhere."""
    if link == "unshaped":
        return learning
    return INTERVAL if way.startswith("local") or link == SLOWED else 6 if link == "1Gbit/s" else 4


def with_learning(links: Sequence[str]) -> tuple[str, ...]:
    """The links in order, the unshaped one first: the loss falls in its phase."""
    return ("unshaped", *(link for link in links if link != "unshaped"))
