"""What the exchange benchmark's measurements say: time to a loss, the table, and a check for each target.

Seconds and bytes of a step are timed on every link; how the held-out loss falls is followed once, on an unshaped link,
since no way that is followed so lets its result depend on the time that messages take: they are awaited after a fixed
number of steps. That is checked on the losses that the timed runs had on shaped links. Only Hivemind meets when
its reports come: its loss is that of an unshaped link, where they come soonest, which is in its favour.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import outcome
from exchange_cells import LINKS, SLOWED, Cell, Learnt
from exchange_ways import RIVALS

# Speed over DDP of the same hosts and link.
SPEEDS = {
    ("2 equal", "100Mbit/s", "exact"): 1.15,
    ("2 equal", "100Mbit/s", "exact_as_written"): 1.15,
    ("2 equal", "100Mbit/s", "bfloat16"): 1.9,
    ("4, one half", "unshaped", "exact_direct"): 1.5,
}
# How much sooner DDP's loss is reached than by a rival.
TIMES = {("100Mbit/s", "ddp"): 6.0, ("100Mbit/s", "ddp_fp16"): 4.0, ("1Gbit/s", "ddp"): 1.8}
FEWER_BYTES = 60.0
MORE_LOSS = 1.02
UNDISTURBED = 1.1
SAME_GRADIENT = 1e-5
SAME_LOSS = 1e-4
NEVER = float("inf")
# When they meet depends on the time that messages take.
TIMELY = ("hivemind",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """How losses fall, of every way at its best rate.

    Args:
        learnt: all that was followed, at all rates.
        steps: after which losses are compared.
    """

    learnt: tuple[Learnt, ...]
    steps: int

    def rate(self, hosts: str, way: str) -> float:
        """The rate at which a way came to the least loss with the seed that all rates were tried with."""
        tried = [item for item in self.learnt if (item.hosts, item.way) == (hosts, way)]
        return min((item for item in tried if item.seed == tried[0].seed), key=lambda item: item.at(self.steps)).rate

    def best(self, hosts: str, way: str) -> dict[int, Learnt]:
        """A way's curves at its best rate, by seed."""
        found = [item for item in self.learnt if (item.hosts, item.way) == (hosts, way)]
        rate = self.rate(hosts, way) if found else 0.0
        return {item.seed: item for item in found if item.rate == rate}

    def steps_to_ddp(self, hosts: str, way: str) -> list[float]:
        """Steps of a way to the loss that DDP has at its last step, one for each seed that both have."""
        own, ddp = self.best(hosts, way), self.best(hosts, "ddp")
        return [own[seed].steps_to(ddp[seed].at(self.steps)) for seed in ddp if seed in own]

    def loss_over_ddp(self, hosts: str, way: str) -> list[float]:
        """Loss at equal steps over DDP's, one for each seed that both have."""
        own, ddp = self.best(hosts, way), self.best(hosts, "ddp")
        return [own[seed].at(self.steps) / ddp[seed].at(self.steps) for seed in ddp if seed in own]


def table(cells: Sequence[Cell], curves: Curves) -> str:
    """All cells, each way against plain DDP of the same hosts and link."""
    names = ("s/step", "× ddp", "MB/step", "rate", f"loss@{curves.steps}", "steps to", "s to", "× ddp")
    lines = [f"{'hosts':<13}{'link':<16}{'way':<17}" + "".join(f"{name:>10}" for name in names)]
    base = {(cell.hosts, cell.link): cell for cell in cells if cell.way == "ddp"}
    for cell in sorted(cells, key=lambda item: (item.hosts, (*LINKS, SLOWED).index(item.link))):
        against = base.get((cell.hosts, cell.link))
        line = f"{cell.hosts:<13}{cell.link:<16}{cell.way:<17}{cell.seconds:>10.3f}"
        line += f"{against.seconds / cell.seconds:>10.2f}" if against else f"{'':>10}"
        line += f"{cell.sent / 1e6:>10.2f}"
        own = curves.best(cell.hosts, cell.way)
        if own:
            losses = [learnt.at(curves.steps) for learnt in own.values()]
            line += f"{next(iter(own.values())).rate:>10g}{statistics.median(losses):>10.3f}"
        needed = curves.steps_to_ddp(cell.hosts, cell.way)
        if needed and against:
            steps = statistics.median(needed)
            line += f"{steps:>10.1f}{steps * cell.seconds:>10.1f}"
            line += f"{curves.steps * against.seconds / (steps * cell.seconds):>10.2f}"
        lines.append(line)
    return "\n".join(lines)


def checks_of(cells: Sequence[Cell], curves: Curves, *, timed: Sequence[Learnt] = ()) -> list[outcome.Check]:
    """The targets of the cells that were run.

    Args:
        cells: all that were timed.
        curves: all that were followed.
        timed: the losses that timed runs had.
    """
    found = {(cell.hosts, cell.link, cell.way): cell for cell in cells}
    checks = []
    for (hosts, link, way), cell in found.items():
        name = f"{hosts}, {link}, {way}"
        ddp = found.get((hosts, link, "ddp"))
        bound = SPEEDS.get((hosts, link, way))
        if bound is not None and ddp is not None:
            checks.append(outcome.at_least(f"{name}: speed over DDP", ddp.seconds / cell.seconds, bound))
        if cell.gradient_error is not None and way not in RIVALS:
            checks.append(
                outcome.at_most(f"{name}: gradient apart from one device's", cell.gradient_error, SAME_GRADIENT)
            )
        if link == SLOWED:
            slower = cell.seconds / found[hosts, "unshaped", way].seconds
            checks.append(outcome.at_most(f"{name}: step of the others over that before", slower, UNDISTURBED))
        if way.startswith("local") and ddp is not None and curves.steps_to_ddp(hosts, way):
            checks += _local_checks(cell, ddp, curves, found)
    return checks + list(_same_losses(timed, curves))


def _local_checks(
    cell: Cell, ddp: Cell, curves: Curves, found: dict[tuple[str, str, str], Cell]
) -> Iterator[outcome.Check]:
    """Time to DDP's loss, the loss at equal steps, and bytes; medians over the seeds."""
    name = f"{cell.hosts}, {cell.link}, {cell.way}"
    needed = curves.steps_to_ddp(cell.hosts, cell.way)
    own = statistics.median(needed) * cell.seconds
    rivals = {}
    for rival in RIVALS:
        other, steps = found.get((cell.hosts, cell.link, rival)), curves.steps_to_ddp(cell.hosts, rival)
        if other is None or not steps:
            continue
        rivals[rival] = statistics.median(steps) * other.seconds
        bound = TIMES.get((cell.link, rival))
        if bound is not None:
            said = f"{name}: time to DDP's loss, times sooner than {rival}, {len(needed)} seeds"
            yield outcome.at_least(said, rivals[rival] / own, bound)
    if rivals and cell.link != "unshaped":
        said = f"{name}: time to DDP's loss over that of the fastest of {', '.join(rivals)}"
        yield outcome.at_most(said, own / min(rivals.values()), 1.0)
    if cell.link == "100Mbit/s":
        losses = curves.loss_over_ddp(cell.hosts, cell.way)
        said = f"{name}: loss over DDP's after {curves.steps} steps, {len(losses)} seeds"
        yield outcome.at_most(said, statistics.median(losses), MORE_LOSS)
        yield outcome.at_least(f"{name}: times fewer bytes", ddp.sent / cell.sent, FEWER_BYTES)


def _same_losses(timed: Sequence[Learnt], curves: Curves) -> Iterator[outcome.Check]:
    """Whether a loss on shaped links is the one that was followed on an unshaped link."""
    apart = []
    for run in timed:
        for learnt in curves.learnt:
            if (learnt.hosts, learnt.way, learnt.seed, learnt.rate) != (run.hosts, run.way, run.seed, run.rate):
                continue
            if run.way in TIMELY:
                continue
            followed = dict(learnt.losses)
            apart += [abs(value / followed[steps] - 1) for steps, value in run.losses if steps in followed]
    if apart:
        said = f"losses on shaped links apart from those on an unshaped one, worst of {len(apart)}"
        yield outcome.at_most(said, max(apart), SAME_LOSS)
