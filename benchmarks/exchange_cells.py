"""Which hosts, links and ways the exchange benchmark compares, and what it keeps of each run.

two       2 equal hosts, every link; learns               four     4 equal hosts, 100 Mbit/s
half      4 hosts, one with half the processor time       slowed   4 hosts, one slowed by 10 times during the run
one_host  processes of one host, no testbed               pick     ways that the planner chooses from, 2 hosts
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from exchange_orders import INTERVAL, Answer, Order, Phase
from exchange_ways import PACKAGES, RIVALS, trains_apart
from testbed_description import Description, HostDescription

LINKS = ("unshaped", "1Gbit/s", "100Mbit/s")
SLOWED = "one slowed 10 ×"  # not a link: the last host's processor time is cut instead
LATE_INTERVALS = 4  # timed of a way that meets a step or two after each, so that most of its meetings are in it
EVALUATE = 16  # steps between two looks at the held-out loss
EXAMPLES = 8  # of a step, on every host
WINDOW = 20.0  # s in which every host takes as many steps as it can
PICKED_FROM = ("exact", "exact_direct", "exact_gloo", "bfloat16", "bfloat16_direct", "bfloat16_gloo", "int8")
# Steps of a phase that is timed; the first one of them warms up. On a slow link they are alike.
STEPS = {"unshaped": 7, "1Gbit/s": 6, "100Mbit/s": 4}
# Seconds of a step on two hosts, about, to know what fits into a budget.
SECONDS = {"unshaped": 0.5, "1Gbit/s": 0.8, "100Mbit/s": 3.0, SLOWED: 1.0}
RIVAL_SECONDS = 0.7  # s, of a step of a rival whose hosts train apart
START = 10.0  # s, to load torch on two hosts


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Runs on the same hosts.

    Args:
        hosts: how many, and what of them.
        count: hosts.
        is_half: whether the last one has half of its part of the processor.
        links: that are timed.
        ways: that are compared.
        learning: those whose loss is followed.
    """

    hosts: str
    count: int
    is_half: bool = False
    links: tuple[str, ...]
    ways: tuple[str, ...]
    learning: tuple[str, ...] = ()


GROUPS = {
    "two": Group(
        hosts="2 equal", count=2, links=LINKS, ways=(*RIVALS, "exact", "exact_as_written", "bfloat16", "local_int8"),
        learning=(*RIVALS, "local_int8"),
    ),
    "four": Group(hosts="4 equal", count=4, links=("100Mbit/s",), ways=("ddp", "exact", "bfloat16", "local_int8")),
    "half": Group(
        hosts="4, one half", count=4, is_half=True, links=("unshaped", "1Gbit/s"), ways=("ddp", "exact_direct")
    ),
    "slowed": Group(hosts="4 equal", count=4, links=("unshaped", SLOWED), ways=("asynchronous",)),
    "pick": Group(hosts="2 equal", count=2, links=LINKS, ways=PICKED_FROM),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One way on the hosts of a group.

    Args:
        group: of hosts.
        way: its name.
        seed: of weights and examples.
        rate: of learning.
        links: one after another.
        learning: steps whose loss is followed, on an unshaped link; 0: steps are timed.
    """

    group: Group
    way: str
    seed: int = 0
    rate: float
    links: tuple[str, ...]
    learning: int = 0

    @property
    def name(self) -> str:
        """Tells it from all others."""
        what = f"learns {self.learning}" if self.learning else "+".join(self.links)
        return f"{self.group.hosts}/{self.way}/{self.seed}/{self.rate:g}/{what}"

    @property
    def seconds(self) -> float:
        """How long it takes, about, once its hosts have started (s)."""
        factor = self.group.count / 2
        if self.group.ways == ("asynchronous",):
            return 2 * WINDOW + 20.0
        return sum(
            phase.steps * factor * self._step(link) for phase, link in zip(self.order.phases, self.links, strict=True)
        )

    @property
    def order(self) -> Order:
        """What the hosts are told."""
        return Order(
            way=self.way,
            phases=tuple(self._phase(link) for link in self.links),
            seed=self.seed,
            rate=self.rate,
            batch=EXAMPLES * self.group.count,
            evaluate=0 if self.group.is_half or self.way == "asynchronous" else EVALUATE,
            is_uneven=self.group.is_half,
            is_witnessed=self.group.is_half,
        )

    def _step(self, link: str) -> float:
        if self.way in PACKAGES:
            return RIVAL_SECONDS
        return SECONDS["unshaped"] if trains_apart(self.way) else SECONDS[link]

    def _phase(self, link: str) -> Phase:
        if self.way == "asynchronous":
            return Phase(seconds=WINDOW)
        if self.learning:
            # others may be a little behind: they go on until they have the loss of DDP's last step
            return Phase(steps=self.learning + 2 * INTERVAL * (self.way != "ddp"))
        if self.way == "hivemind":
            return Phase(steps=INTERVAL * LATE_INTERVALS)
        if trains_apart(self.way):
            return Phase(steps=INTERVAL * (1 + (link == self.links[0])))
        return Phase(steps=STEPS[link])


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One way on one link.

    Args:
        way: its name.
        hosts: how many, and whether one has half the processor time.
        link: bandwidth of every host's link.
        seconds: per step, median (s); the mean of the others where one host is slowed.
        sent: per step, by the busiest host (B).
        shares: examples of each host.
        gradient_error: of the first gradient to one device's, over its norm; None: not compared.
    """

    way: str
    hosts: str
    link: str
    seconds: float
    sent: float
    shares: tuple[int, ...]
    gradient_error: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Learnt:
    """How a way's held-out loss falls.

    Args:
        way: its name.
        hosts: how many, and what of them.
        seed: of weights and examples.
        rate: of learning.
        losses: steps, and the loss after them.
    """

    way: str
    hosts: str
    seed: int = 0
    rate: float = 1e-3
    losses: tuple[tuple[int, float], ...]

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
    """Answers of finished runs, one JSON object in a line of a file, so that a run that is cut off keeps them.

    Args:
        path: of the file; None: they are kept for this run only.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._rows: dict[str, tuple[list[Cell], Learnt]] = {}
        for line in path.read_text().splitlines() if path is not None and path.exists() else ():
            row = json.loads(line)
            cells = [Cell(**cell | {"shares": tuple(cell["shares"])}) for cell in row["cells"]]
            learnt = Learnt(**row["learnt"] | {"losses": tuple(map(tuple, row["learnt"]["losses"]))})
            self._rows[row["run"]] = (cells, learnt)

    def __contains__(self, run: str) -> bool:
        return run in self._rows

    def of(self, run: str) -> tuple[list[Cell], Learnt]:
        """What a run gave."""
        return self._rows[run]

    def add(self, run: str, cells: list[Cell], learnt: Learnt) -> None:
        """Keeps what a run gave."""
        self._rows[run] = (cells, learnt)
        if self._path is not None:
            with self._path.open("a") as file:
                row = {"run": run, "cells": [asdict(cell) for cell in cells], "learnt": asdict(learnt)}
                file.write(json.dumps(row) + "\n")


def description(count: int, *, is_half: bool) -> Description:
    """Hosts that share this machine's two cores evenly; the last one has half of its part where asked."""
    part = min(1.0, 2 / count)
    return Description(
        hosts=tuple(
            HostDescription(
                name=f"host-{rank}",
                cores=(rank % 2,),
                cpus=part / 2 if is_half and rank == count - 1 else part,
            )
            for rank in range(count)
        )
    )


def learnt_of(run: Run, answer: Answer) -> Learnt:
    """How the loss fell."""
    return Learnt(way=run.way, hosts=run.group.hosts, seed=run.seed, rate=run.rate, losses=answer.losses)
