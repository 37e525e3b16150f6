"""Ways to agree on gradients over slow links and between unequal hosts, side by side in one run.

    python benchmarks/exchange.py --quick                        # 2 hosts, 3 ways, under a minute
    python benchmarks/exchange.py --rows rows.jsonl --budget 240 # all cells, what fits into 240 s; again: the next ones
    python benchmarks/exchange.py --rows rows.jsonl --cells two --seeds 0 1 2 --sweep 5e-4 1e-3 2e-3 --budget 240
    python benchmarks/exchange.py --rows rows.jsonl --budget 0 --json               # what is known, and nothing run

A GPT of 10M parameters learns the sources of Python's standard library on a testbed (`testbed.py`: hosts are network
namespaces with shaped links, one core or less each). Every way trains the same global batches from the same weights.
Seconds and bytes of a step are timed on every link. How the held-out loss falls is followed apart from that, on an
unshaped link, with every seed; time to a loss is the number of steps to it times the time of a step
(`exchange_targets`). With `--sweep` every way first learns at several rates with the first seed, and keeps the one with
the least loss at the end. Cells are in `exchange_cells`, ways in `exchange_ways`; rivals are torch's
DistributedDataParallel, plain, with its fp16 hook and with PowerSGD (one bucket), and with `--rivals-python` torchft's
DiLoCo and Hivemind (`exchange_rivals` says how to install them). Needs what the testbed needs; run it on a machine that
does nothing else.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import outcome
from exchange_cells import GROUPS, LINKS, START, Cell, Group, Learnt, Ledger, Run
from exchange_rivals import INSTALLATION
from exchange_rivals import obstacle as rivals_obstacle
from exchange_targets import Curves, checks_of, table
from exchange_testbed import RunError, measured_link, train
from exchange_ways import CHOICES, PACKAGES, RIVALS
from testbed import obstacle

QUICK_WAYS = ("ddp", "exact", "bfloat16")
LOCAL, PICK = "one_host", "pick"
PICKED = 0.9


class Bench:
    """Runs what is asked for and not known yet, as long as there is time.

    Args:
        rows: file that keeps what is known; None: nothing is.
        budget: seconds that all runs may take, about.
        rivals: the interpreter that has the packages of rivals; None: there is none.

    Attributes:
        left_out: runs that there was no time for.
        obstacles: to the rivals of other packages that were to be run; empty for one that can be.
    """

    def __init__(self, rows: Path | None, budget: float, *, rivals: Path | None) -> None:
        self._ledger = Ledger(rows)
        self._ends = time.monotonic() + budget
        self._rivals = rivals
        self.left_out: list[str] = []
        self.obstacles: dict[str, str] = {}

    def results(self, runs: Sequence[Run]) -> list[tuple[list[Cell], Learnt]]:
        """What runs on the same hosts give, without those that there was no time for, or that failed."""
        fresh, until = [], time.monotonic() + START * runs[0].group.count / 2
        for run in runs:
            if run.name in self._ledger or not self._is_possible(run.way):
                continue
            if until + run.seconds > self._ends:
                self.left_out.append(run.name)
                continue
            until += run.seconds
            fresh.append(run)
        if fresh:
            self._train(fresh, until - time.monotonic())
        return [self._ledger.of(run.name) for run in runs if run.name in self._ledger]

    def _train(self, runs: Sequence[Run], seconds: float) -> None:
        begun = time.monotonic()
        print(f"{', '.join(run.name for run in runs)}: about {seconds:.0f} s", file=sys.stderr, flush=True)
        try:
            for run, cells, learnt in train(runs, python=self._python(runs[0].way)):
                self._ledger.add(run.name, cells, learnt)
        except RunError as error:
            print(f"{runs[0].name} and what followed it: {error}", file=sys.stderr, flush=True)
        print(f"took {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)

    def _is_possible(self, way: str) -> bool:
        if way in PACKAGES and way not in self.obstacles:
            self.obstacles[way] = rivals_obstacle(way, self._rivals)
        return not self.obstacles.get(way)

    def _python(self, way: str) -> Path:
        return self._rivals if self._rivals is not None and way in PACKAGES else Path(sys.executable)


def timed(options: argparse.Namespace, group: Group, bench: Bench) -> list[tuple[list[Cell], Learnt]]:
    """Steps of every way of a group on its links; together in the same processes where it has to be quick."""
    links = tuple(link for link in group.links if options.links is None or link in (*options.links, group.links[-1]))
    if options.links is not None and group.links[-1] in LINKS:
        links = tuple(link for link in group.links if link in options.links)
    ways = [way for way in group.ways if options.ways is None or way in options.ways]
    ways += [way for way in options.ways or () if way not in ways and group.count == 2]
    if not links or not ways:
        return []
    # each link by itself: what settles by the link, as packing does, settles once in a run
    parts = [(link,) for link in links] if links[-1] in LINKS else [links]
    runs = [
        [Run(group=group, way=way, seed=options.seeds[0], rate=options.rate, links=part) for part in parts]
        for way in ways
    ]
    if options.quick and not PACKAGES.keys() & ways:
        return bench.results([run for of_way in runs for run in of_way])
    return [result for of_way in runs for result in bench.results(of_way)]


def followed(options: argparse.Namespace, group: Group, bench: Bench) -> list[Learnt]:
    """How the loss falls: every way at every rate with the first seed, then at its best one with the others."""
    found: list[Learnt] = []
    for way in (way for way in group.learning if options.ways is None or way in options.ways):
        first = Run(
            group=group, way=way, seed=options.seeds[0], rate=options.rate, links=("unshaped",),
            learning=options.learning,
        )  # fmt: skip
        tried = [replace(first, rate=rate) for rate in options.sweep or [options.rate]]
        own = [learnt for _, learnt in bench.results(tried)]
        if len(own) == len(tried):
            rate = Curves(learnt=tuple(own), steps=options.learning).rate(group.hosts, way)
            seeds = [replace(first, rate=rate, seed=seed) for seed in options.seeds[1:]]
            own += [learnt for _, learnt in bench.results(seeds)] if seeds else []
        found += own
    return found


def picked(cells: Sequence[Cell]) -> tuple[list[dict[str, Any]], list[outcome.Check]]:
    """The planner's picks against what was measured."""
    from exchange_pick import CLOSE, picks

    wanted = [link for link in LINKS if any(cell.link == link for cell in cells)]
    rows = [asdict(pick) for pick in picks(cells, {link: measured_link(link) for link in wanted})]
    if not rows:
        return [], []
    close = sum(row["over_best"] <= CLOSE for row in rows) / len(rows)
    name = f"the planner's pick within 5 % of the best, share of {len(rows)} cells"
    return rows, [outcome.at_least(name, close, PICKED)]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 hosts, 100 Mbit/s, three ways, four steps of each")
    parser.add_argument("--cells", nargs="+", choices=(*GROUPS, LOCAL), default=(*GROUPS, LOCAL))
    parser.add_argument("--rows", type=Path, help="file that keeps finished runs; known ones are not run again")
    parser.add_argument("--budget", type=float, default=900.0, help="seconds that all of it may take, about")
    parser.add_argument("--learning", type=int, default=96, help="steps whose loss is followed; 0: none")
    parser.add_argument("--ways", nargs="+", choices=(*RIVALS, *CHOICES))
    parser.add_argument("--links", nargs="+", choices=LINKS)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of what is timed, and without --sweep")
    parser.add_argument("--sweep", nargs="*", type=float, default=[], help="rates of which every way takes its best")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--rivals-python", type=Path, help=f"has torchft and hivemind: V/bin/python after `{INSTALLATION}`"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.cells, options.links, options.learning = ("two",), ["100Mbit/s"], 0
        options.ways = options.ways or QUICK_WAYS
    return options


def main() -> int:
    """Runs all cells and prints them; 1 where a target is missed."""
    options = parse()
    reason = obstacle()
    if reason:
        sys.exit(f"no testbed here: {reason}")
    there = outcome.machine()
    bench = Bench(options.rows, options.budget, rivals=options.rivals_python)
    cells: list[Cell] = []
    learnt: list[Learnt] = []
    on_links: list[Learnt] = []
    for group in (GROUPS[cell] for cell in options.cells if cell in GROUPS):
        for found, losses in timed(options, group, bench):
            cells += (cell for cell in found if cell not in cells)
            on_links.append(losses)
        learnt += followed(options, group, bench) if options.learning else []
    curves = Curves(learnt=tuple(learnt), steps=options.learning)
    rows: list[dict[str, Any]] = [asdict(row) for row in (*cells, *learnt)]
    checks = checks_of(cells, curves, timed=on_links)
    if not options.json:
        print(table(cells, curves))
        rows = []
    if PICK in options.cells:
        more, found_checks = picked(cells)
        rows, checks = rows + more, checks + found_checks
    if LOCAL in options.cells:
        import exchange_local

        sums = exchange_local.rows()
        rows, checks = rows + sums, checks + exchange_local.checks(sums)
    for name in bench.left_out:
        print(f"left out for want of time: {name}", file=sys.stderr)
    for way, reason in bench.obstacles.items():
        if reason:
            print(f"{way} does not run here: {reason}", file=sys.stderr)
    return outcome.publish(rows, checks, there=there, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
