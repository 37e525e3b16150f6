"""Ways to agree on gradients over slow links and between unequal hosts, side by side in one run.

    python benchmarks/exchange.py --quick                  # 2 hosts, 3 ways, about 2 minutes on a quiet machine
    python benchmarks/exchange.py --budget 720             # the usual ways, in about so many seconds
    python benchmarks/exchange.py --budget 1500 --all      # every way
    python benchmarks/exchange.py --ways ddp exact --hosts 2 --json

A GPT of 10M parameters learns the sources of Python's standard library on a testbed (`testbed.py`: hosts are network
namespaces with shaped links, one core or less each). Every way trains the same global batches from the same weights.
Its processes train in phases on links of different speed: the first phase, unshaped, is long and tells how the held-out
loss falls, which links do not change; the others tell seconds and bytes per step. Time to a loss is the number of steps
to it times the time of a step. Ways are in `exchange_ways.py`; rivals are torch's DistributedDataParallel, plain, with
its fp16 hook and with PowerSGD (one bucket). Needs what the testbed needs; run it on a machine that does nothing else.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import outcome
from exchange_ways import CHOICES, RIVALS
from testbed import PORT, Testbed, obstacle
from testbed_description import Description, HostDescription, parse_rate
from testbed_network import Network

HERE = Path(__file__).resolve().parent
LINKS = ("unshaped", "1Gbit/s", "100Mbit/s")
QUICK_WAYS = ("ddp", "exact", "int8")
USUAL_WAYS = (*RIVALS, "exact", "bfloat16", "int8", "powersgd", "top_k", "local", "local_int8")
FEW_WAYS = ("ddp", "exact", "int8", "local_int8")
HALF_WAYS = ("ddp", "exact")
INTERVAL = 16  # steps between two meetings of the local ways
START = 10.0  # s, to load torch on every host
SHORT = 20  # steps of learning on 4 hosts
# Speed over DDP, and how much sooner DDP's loss is reached.
SPEEDS = {("exact", "100Mbit/s"): 1.15, ("bfloat16", "100Mbit/s"): 1.9}
TIMES = {"100Mbit/s": 6.0, "1Gbit/s": 1.8}
SLOW = 15.0  # s, for the phases on slow links
STEP = 0.45  # s, of a step that waits for no link
START_LIMIT = 300.0
STEP_LIMIT = 600.0


class RunError(Exception):
    """A way did not come to its end; says what its host said last."""


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
    """

    way: str
    hosts: str
    link: str
    seconds: float
    sent: float
    shares: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Learnt:
    """How a way's held-out loss falls: steps and losses."""

    way: str
    hosts: str
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
    return INTERVAL if way.startswith("local") else 6 if link == "1Gbit/s" else 4


def train(
    way: str, hosts: Description, links: Sequence[str], *, kind: str, learning: int, options: argparse.Namespace
) -> tuple[list[Cell], Learnt]:
    """Trains one way on all links."""
    folder = Path(tempfile.mkdtemp(prefix="exchange-"))
    output = folder / "result"
    steps = [steps_of(way, link, learning=learning) for link in links]
    count = len(hosts.hosts)
    words = [sys.executable, str(HERE / "exchange_contestant.py"), way, "--hosts", str(count)]
    words += ["--address", Network.address(0), "--port", str(PORT), "--output", str(output)]
    words += ["--phases", ",".join(map(str, steps)), "--evaluate", str(max(1, learning // 10))]
    words += ["--batch", str(options.batch), "--rate", str(options.rates.get(way, options.rate))]
    words += ["--seed", str(options.seed), "--bucket", str(options.bucket)]
    sent: list[int] = []
    with Testbed(hosts) as bed, (folder / "log").open("wb") as log:
        processes = [bed.start(rank, [*words, "--rank", str(rank)], output=log, errors=log) for rank in range(count)]
        for phase in range(len(links) + 1):
            _await(output.with_suffix(f".{phase}.ready"), processes, log=folder / "log")
            sent.append(max(link.sent for link in bed.traffic()))
            if phase < len(links):
                rate = 0.0 if links[phase] == "unshaped" else parse_rate(links[phase])
                for rank in range(count):
                    bed.set_rate(rank, rate)
            output.with_suffix(f".{phase}.go").touch()
        processes[0].wait(timeout=60)
    result = json.loads(output.read_text())
    cells = [
        Cell(
            way=way, hosts=kind, link=link, seconds=_typical(way, times), shares=tuple(result["shares"]),
            sent=(sent[phase + 1] - sent[phase]) / len(times),
        )
        for phase, (link, times) in enumerate(zip(links, result["phases"], strict=True))
    ]  # fmt: skip
    return cells, Learnt(way=way, hosts=kind, losses=tuple(map(tuple, result["losses"])))


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


def table(cells: Sequence[Cell], learnt: Sequence[Learnt], *, learning: int) -> str:
    """All cells, each way against plain DDP of the same hosts and link."""
    names = ("s/step", "× ddp", "MB/step", f"loss@{learning}", "to its loss", "× ddp")
    lines = [f"{'hosts':<14}{'link':<11}{'way':<14}" + "".join(f"{name:>12}" for name in names)]
    curves = {(item.hosts, item.way): item for item in learnt}
    base = {(cell.hosts, cell.link): cell for cell in cells if cell.way == "ddp"}
    for cell in sorted(cells, key=lambda item: (item.hosts, LINKS.index(item.link))):
        against = base.get((cell.hosts, cell.link))
        curve, target = curves[cell.hosts, cell.way], curves.get((cell.hosts, "ddp"))
        line = f"{cell.hosts:<14}{cell.link:<11}{cell.way:<14}{cell.seconds:>12.3f}"
        line += f"{against.seconds / cell.seconds if against else 0:>12.2f}{cell.sent / 1e6:>12.2f}"
        line += f"{curve.at(learning):>12.3f}"
        if against and target:
            loss = target.at(learning)
            reached = curve.steps_to(loss) * cell.seconds
            wanted = target.steps_to(loss) * against.seconds
            line += (
                f"{reached:>12.1f}{wanted / reached:>12.2f}" if reached < float("inf") else f"{'never':>12}{'-':>12}"
            )
        lines.append(line)
    return "\n".join(lines)


def plan_of(options: argparse.Namespace) -> list[tuple[str, Description, tuple[str, ...], tuple[str, ...]]]:
    """Which hosts, links and ways: name of the hosts, hosts, links, ways."""
    ways = tuple(options.ways or (QUICK_WAYS if options.quick else (*RIVALS, *CHOICES) if options.all else USUAL_WAYS))
    few = tuple(options.ways or FEW_WAYS)
    wanted = [("2 equal", description(2, half=False), _with_learning(options.links or LINKS), ways)]
    if not options.quick and 4 in options.hosts:
        wanted.append(("4 equal", description(4, half=False), ("unshaped", "100Mbit/s"), few))
        halved = tuple(options.ways or HALF_WAYS)
        wanted.append(("4, one half", description(4, half=True), ("unshaped", "1Gbit/s"), halved))
    return [item for item in wanted if item[0].startswith(tuple(map(str, options.hosts)))]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 hosts, three ways, 10 steps of learning")
    parser.add_argument("--budget", type=float, default=720.0, help="seconds that all of it may take, about")
    parser.add_argument(
        "--learning", type=int, default=0, help="steps of the learning phase; 0: what the budget leaves"
    )
    parser.add_argument("--ways", nargs="+", choices=(*RIVALS, *CHOICES))
    parser.add_argument("--all", action="store_true", help="every way there is")
    parser.add_argument("--links", nargs="+", choices=LINKS)
    parser.add_argument("--hosts", nargs="+", type=int, default=[2, 4], choices=(2, 4))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--rates", nargs="*", default=[], help="of single ways: ddp=2e-3")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bucket", type=float, default=1.0, help="MiB")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.rates = {way: float(rate) for way, _, rate in (item.partition("=") for item in options.rates)}
    return options


def _with_learning(links: Sequence[str]) -> tuple[str, ...]:
    """The links in order, the unshaped one first: the loss falls in its phase."""
    return ("unshaped", *(link for link in links if link != "unshaped"))


def _with_curves(cells: Sequence[Cell], learnt: Sequence[Learnt]) -> list[tuple[Cell, Learnt]]:
    curves = {(item.hosts, item.way): item for item in learnt}
    return [(cell, curves[cell.hosts, cell.way]) for cell in cells]


def checks_of(cells: Sequence[Cell], learnt: Sequence[Learnt], *, learning: int) -> list[outcome.Check]:
    """The targets of the cells that were run, each against plain DDP of the same hosts and link."""
    base = {(cell.hosts, cell.link): (cell, curve) for cell, curve in _with_curves(cells, learnt) if cell.way == "ddp"}
    checks = []
    for cell, curve in _with_curves(cells, learnt):
        ddp = base.get((cell.hosts, cell.link))
        if ddp is None:
            continue
        name = f"{cell.hosts}, {cell.link}, {cell.way}"
        bound = SPEEDS.get((cell.way, cell.link))
        if bound is not None:
            checks.append(outcome.at_least(f"{name}: speed over DDP", ddp[0].seconds / cell.seconds, bound))
        if cell.way.startswith("local") and cell.link in TIMES:
            loss = ddp[1].at(learning)
            faster = ddp[1].steps_to(loss) * ddp[0].seconds / (curve.steps_to(loss) * cell.seconds)
            checks.append(outcome.at_least(f"{name}: time to DDP's loss, times faster", faster, TIMES[cell.link]))
            checks.append(outcome.at_most(f"{name}: loss over DDP's", curve.at(learning) / loss, 1.02))
    return checks


def main() -> int:
    """Runs all cells and prints them; 1 where a target is missed."""
    options = parse()
    reason = obstacle()
    if reason:
        sys.exit(f"no testbed here: {reason}")
    there = outcome.machine()
    wanted = plan_of(options)
    runs = sum(len(ways) for *_, ways in wanted)
    left = options.budget - runs * (START + SLOW) - sum(SHORT * STEP * len(ways) for kind, *_, ways in wanted[1:])
    learning = options.learning or (10 if options.quick else max(SHORT, round(left / STEP / len(wanted[0][3]))))
    cells: list[Cell] = []
    learnt: list[Learnt] = []
    for kind, hosts, links, ways in wanted:
        phase = learning if kind.startswith("2") else min(learning, SHORT)
        for way in ways:
            print(f"{kind}: {way}", file=sys.stderr, flush=True)
            try:
                found, curve = train(way, hosts, links, kind=kind, learning=phase, options=options)
            except RunError as error:
                print(f"{kind}: {way}: {error}", file=sys.stderr, flush=True)
                continue
            cells += found
            learnt.append(curve)
    rows = [asdict(cell) | {"losses": curve.losses} for cell, curve in _with_curves(cells, learnt)]
    if not options.json:
        print(table(cells, learnt, learning=learning))
        rows = []
    return outcome.publish(rows, checks_of(cells, learnt, learning=learning), there=there, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
