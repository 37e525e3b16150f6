"""Ways to agree on gradients over slow links and between unequal hosts, side by side in one run.

    python benchmarks/exchange.py --quick                        # 2 hosts, 3 ways, under a minute
    python benchmarks/exchange.py --cells two --seeds 0 1 2      # one cell of the table
    python benchmarks/exchange.py --rows rows.jsonl --budget 240 # all cells, what fits into 240 s; again: the next ones
    python benchmarks/exchange.py --cells two --ways ddp exact --links 100Mbit/s --json

A GPT of 10M parameters learns the sources of Python's standard library on a testbed (`testbed.py`: hosts are network
namespaces with shaped links, one core or less each). Every way trains the same global batches from the same weights.
Its processes train in phases on links of different speed: the first phase, unshaped, is long and tells how the held-out
loss falls, which links do not change; the others tell seconds and bytes per step. Time to a loss is the number of steps
to it times the time of a step. Cells are in `exchange_cells.py`, ways in `exchange_ways.py`; rivals are torch's
DistributedDataParallel, plain, with its fp16 hook and with PowerSGD (one bucket). With `--sweep` every way first learns
at several rates, and keeps the one with the least loss at the end. Needs what the testbed needs; run it on a machine
that does nothing else.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import outcome
from exchange_cells import GROUPS, LINKS, SLOWED, Cell, Group, Learnt, Ledger, description, steps_of, with_learning
from exchange_testbed import RunError, measured_link, train
from exchange_ways import CHOICES, RIVALS
from testbed import obstacle

QUICK_WAYS = ("ddp", "exact", "bfloat16")
LOCAL, PICK = "one_host", "pick"
# Speed over DDP, and how much sooner DDP's loss is reached: than with float32, and than with the fp16 hook.
SPEEDS = {
    ("2 equal", "100Mbit/s", "exact"): 1.15,
    ("2 equal", "100Mbit/s", "bfloat16"): 1.9,
    ("4, one half", "unshaped", "exact_direct"): 1.5,
}
TIMES = {("100Mbit/s", "ddp"): 6.0, ("100Mbit/s", "ddp_fp16"): 4.0, ("1Gbit/s", "ddp"): 1.8}
BYTES = 60.0
LOSS = 1.02
UNDISTURBED = 1.1
PICKED = 0.9
START = 9.0  # s, to load torch on every host
# Seconds of a step, about, to know what fits into a budget.
STEPS = {"unshaped": 0.5, "1Gbit/s": 0.9, "100Mbit/s": 4.0, SLOWED: 1.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One way on the hosts of a group."""

    group: Group
    way: str
    seed: int
    rate: float
    links: tuple[str, ...]
    learning: int

    @property
    def name(self) -> str:
        """Tells it from all others."""
        return f"{self.group.hosts}/{self.way}/{self.seed}/{self.rate:g}/{'+'.join(self.links)}/{self.learning}"

    @property
    def seconds(self) -> float:
        """How long it takes, about."""
        quick = 4 if self.way.startswith("local") else 1
        slow = sum(steps_of(self.way, link, learning=self.learning) * STEPS[link] / quick for link in self.links[1:])
        return START * self.group.count / 2 + self.learning * STEPS["unshaped"] + slow


class Bench:
    """Runs what is asked for and not known yet, as long as there is time."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._ledger = Ledger(options.rows)
        self._ends = time.monotonic() + options.budget
        self.left_out: list[str] = []

    def result(self, run: Run) -> tuple[list[Cell], Learnt] | None:
        """What a run gives; None where there is no time for it, or it failed."""
        if run.name not in self._ledger:
            if time.monotonic() + run.seconds > self._ends:
                self.left_out.append(run.name)
                return None
            print(f"{run.name}, about {run.seconds:.0f} s", file=sys.stderr, flush=True)
            try:
                cells, learnt = train(
                    run.way, description(run.group.count, half=run.group.half), run.links, kind=run.group.hosts,
                    seed=run.seed, rate=run.rate, learning=run.learning, options=self._options,
                )  # fmt: skip
            except RunError as error:
                print(f"{run.name}: {error}", file=sys.stderr, flush=True)
                return None
            self._ledger.add(run.name, cells, learnt)
        return self._ledger.of(run.name)

    def rate(self, way: str) -> float:
        """The learning rate of a way: its own, the best of a sweep, or everybody's."""
        options = self._options
        if way in options.rates or not options.sweep:
            return options.rates.get(way, options.rate)
        group = GROUPS["two"]
        losses = {}
        for rate in options.sweep:
            run = Run(group=group, way=way, seed=99, rate=rate, links=("unshaped",), learning=options.learning)
            found = self.result(run)
            if found is not None:
                losses[rate] = found[1].losses[-1][1]
        return min(losses, key=losses.__getitem__) if losses else options.rate


def runs(options: argparse.Namespace, bench: Bench) -> Iterator[Run]:
    """What the command line asks for."""
    seen = set()
    for name in (cell for cell in options.cells if cell in GROUPS):
        group = GROUPS[name]
        links = with_learning([link for link in group.links if options.links is None or link in options.links])
        if name == "slowed":
            links = group.links
        for seed in options.seeds if name == "two" else options.seeds[:1]:
            for way in options.ways or group.ways:
                steps = options.learning if name == "two" else options.short
                run = Run(group=group, way=way, seed=seed, rate=bench.rate(way), links=links, learning=steps)
                if name == PICK and replace(run, learning=options.learning).name in seen:
                    continue
                seen.add(run.name)
                yield run


def table(cells: Sequence[Cell], learnt: Sequence[Learnt], *, learning: int) -> str:
    """All cells, each way against plain DDP of the same hosts, link and seed."""
    names = ("s/step", "× ddp", "MB/step", f"loss@{learning}", "to its loss", "× ddp")
    lines = [f"{'hosts':<14}{'link':<18}{'way':<17}{'seed':>4}" + "".join(f"{name:>12}" for name in names)]
    curves = {(item.hosts, item.way, item.seed): item for item in learnt}
    base = {(cell.hosts, cell.link, cell.seed): cell for cell in cells if cell.way == "ddp"}
    for cell in sorted(cells, key=lambda item: (item.hosts, (*LINKS, SLOWED).index(item.link), item.seed)):
        against = base.get((cell.hosts, cell.link, cell.seed))
        curve, target = curves[cell.hosts, cell.way, cell.seed], curves.get((cell.hosts, "ddp", cell.seed))
        line = f"{cell.hosts:<14}{cell.link:<18}{cell.way:<17}{cell.seed:>4}{cell.seconds:>12.3f}"
        line += f"{against.seconds / cell.seconds if against else 0:>12.2f}{cell.sent / 1e6:>12.2f}"
        line += f"{curve.at(learning):>12.3f}"
        if against and target:
            reached = time_to(target.at(learning), cell, curve)
            wanted = time_to(target.at(learning), against, target)
            line += (
                f"{reached:>12.1f}{wanted / reached:>12.2f}" if reached < float("inf") else f"{'never':>12}{'-':>12}"
            )
        lines.append(line)
    return "\n".join(lines)


def time_to(loss: float, cell: Cell, curve: Learnt) -> float:
    """Seconds to a loss."""
    return curve.steps_to(loss) * cell.seconds


def checks_of(cells: Sequence[Cell], learnt: Sequence[Learnt], *, learning: int) -> list[outcome.Check]:
    """The targets of the cells that were run, over all seeds, each against rivals of the same hosts, link and seed."""
    curves = {(item.hosts, item.way, item.seed): item for item in learnt}
    found = {(cell.hosts, cell.link, cell.way, cell.seed): cell for cell in cells}
    checks = []
    for hosts, link, way in dict.fromkeys((cell.hosts, cell.link, cell.way) for cell in cells):
        seeds = [seed for *key, seed in found if key == [hosts, link, way]]
        pairs = [(found[hosts, link, way, seed], found.get((hosts, link, "ddp", seed))) for seed in seeds]
        name = f"{hosts}, {link}, {way}"
        against = [(own, ddp) for own, ddp in pairs if ddp is not None]
        bound = SPEEDS.get((hosts, link, way))
        if bound is not None and against:
            speed = statistics.median(ddp.seconds / own.seconds for own, ddp in against)
            checks.append(outcome.at_least(f"{name}: speed over DDP", speed, bound))
        if way == "asynchronous" and link == SLOWED:
            before = statistics.median(found[hosts, "unshaped", way, seed].seconds for seed in seeds)
            after = statistics.median(own.seconds for own, _ in pairs)
            checks.append(outcome.at_most(f"{name}: step of the others over that before", after / before, UNDISTURBED))
        if way.startswith("local") and against and learning >= 20:
            checks += _lossy_checks(name, against, curves, found, learning=learning)
    return checks


def _lossy_checks(
    name: str, against: Sequence[tuple[Cell, Cell]], curves: dict[Any, Learnt], found: dict[Any, Cell], *, learning: int
) -> Iterator[outcome.Check]:
    """Time to DDP's loss, the loss at equal steps, and bytes."""
    hosts, link, way = against[0][0].hosts, against[0][0].link, against[0][0].way
    for (limited, rival), bound in TIMES.items():
        times = [
            time_to(loss, other, curves[hosts, rival, own.seed]) / time_to(loss, own, curves[hosts, way, own.seed])
            for own, _ in against
            if limited == link and (other := found.get((hosts, link, rival, own.seed))) is not None
            for loss in (curves[hosts, "ddp", own.seed].at(learning),)
            if curves[hosts, rival, own.seed].steps_to(loss) < float("inf")
        ]
        if times:
            middle = statistics.median(times)
            checked = f"{name}: time to DDP's loss, times sooner than {rival}, {len(times)} seeds"
            yield outcome.at_least(checked, middle, bound)
    if link == "100Mbit/s":
        losses = [
            curves[hosts, way, own.seed].at(learning) / curves[hosts, "ddp", own.seed].at(learning)
            for own, _ in against
        ]
        yield outcome.at_most(f"{name}: loss over DDP's, {len(losses)} seeds", statistics.median(losses), LOSS)
        fewer = statistics.median(ddp.sent / own.sent for own, ddp in against)
        yield outcome.at_least(f"{name}: times fewer bytes", fewer, BYTES)


def picked(cells: Sequence[Cell], options: argparse.Namespace) -> tuple[list[dict[str, Any]], list[outcome.Check]]:
    """The planner's picks against what was measured."""
    from exchange_pick import CLOSE, picks

    wanted = [link for link in LINKS if any(cell.link == link for cell in cells)]
    links = {link: measured_link(description(2, half=False), link) for link in wanted}
    rows = [asdict(pick) for pick in picks(cells, links, batch=options.batch, bucket_size=int(options.bucket * 2**20))]
    if not rows:
        return [], []
    close = sum(row["over_best"] <= CLOSE for row in rows) / len(rows)
    name = f"the planner's pick within 5 % of the best, share of {len(rows)} cells"
    return rows, [outcome.at_least(name, close, PICKED)]


def rivals_missing() -> list[str]:
    """Why rivals of other packages do not run here."""
    found = []
    for package, name in (("torchft", "torchft's DiLoCo"), ("hivemind", "Hivemind")):
        try:
            __import__(package)
        except Exception as error:
            found.append(f"{name} does not run here: {type(error).__name__}: {error}")
        else:
            found.append(f"{name} is installed, and not compared: it brings its own process groups")
    return found


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 hosts, 100 Mbit/s, three ways, 4 steps of learning")
    parser.add_argument("--cells", nargs="+", choices=(*GROUPS, LOCAL), default=(*GROUPS, LOCAL))
    parser.add_argument("--rows", type=Path, help="file that keeps finished runs; known ones are not run again")
    parser.add_argument("--budget", type=float, default=900.0, help="seconds that all of it may take, about")
    parser.add_argument("--learning", type=int, default=48, help="steps of the learning phase")
    parser.add_argument("--short", type=int, default=8, help="the same in cells that compare speed only")
    parser.add_argument("--ways", nargs="+", choices=(*RIVALS, *CHOICES))
    parser.add_argument("--links", nargs="+", choices=LINKS)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--rates", nargs="*", default=[], help="of single ways: ddp=2e-3")
    parser.add_argument("--sweep", nargs="*", type=float, default=[], help="rates of which every way takes its best")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--bucket", type=float, default=1.0, help="MiB")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.rates = {way: float(rate) for way, _, rate in (item.partition("=") for item in options.rates)}
    if options.quick:
        options.cells, options.links, options.learning = ("two",), ["100Mbit/s"], 4
        options.ways = options.ways or QUICK_WAYS
    return options


def main() -> int:
    """Runs all cells and prints them; 1 where a target is missed."""
    options = parse()
    reason = obstacle()
    if reason:
        sys.exit(f"no testbed here: {reason}")
    there = outcome.machine()
    bench = Bench(options)
    cells: list[Cell] = []
    learnt: list[Learnt] = []
    for run in runs(options, bench):
        found = bench.result(run)
        if found is not None:
            cells += found[0]
            learnt.append(found[1])
    curves = {(item.hosts, item.way, item.seed): item.losses for item in learnt}
    rows: list[dict[str, Any]] = [asdict(cell) | {"losses": curves[cell.hosts, cell.way, cell.seed]} for cell in cells]
    checks = checks_of(cells, learnt, learning=options.learning)
    if not options.json:
        print(table(cells, learnt, learning=options.learning))
        rows = []
    if PICK in options.cells:
        more, found_checks = picked(cells, options)
        rows, checks = rows + more, checks + found_checks
    if LOCAL in options.cells:
        import exchange_local

        sums = exchange_local.rows()
        rows, checks = rows + sums, checks + exchange_local.checks(sums)
    for name in bench.left_out:
        print(f"left out for want of time: {name}", file=sys.stderr)
    for line in rivals_missing():
        print(line, file=sys.stderr)
    return outcome.publish(rows, checks, there=there, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
