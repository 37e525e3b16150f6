"""Meshwright's choice against the ways people train today, on this machine, in turns in one run.

    python benchmarks/local.py                        # six models, five ways; about 11 minutes on 2 cores
    python benchmarks/local.py --quick                # one model, under a minute
    python benchmarks/local.py --jobs tabular_mlp --json

Ways: (a) the plain script, (b) the same with torch.compile, (c) DDP with 2 processes, (d) Accelerate with 2 processes,
(e) Meshwright's own choice; and Meshwright pinned to one worker as written, for its overhead. Equal processes are up to
a tenth apart, by where their heaps happened to lie, so that three of each are started in turns and their medians are
compared; how far the plain ones are apart stands beside. Every way trains the same global batches with
the same optimizer. The processes of all ways stay alive and are told in turns to train for about a second; each round
yields one time per step and way, and ratios are taken within a round.
"""

import argparse
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import outcome
from models import JOBS
from referee import Contest, command

PLAIN = ("plain", "plain_again", "plain_third")
ONE = ("meshwright_one", "meshwright_one_again", "meshwright_one_third")
WAYS = ("plain", "compiled", "ddp", "accelerate", "meshwright", ONE[0], PLAIN[1], ONE[1], PLAIN[2], ONE[2])
RIVALS = ("plain", "compiled", "ddp", "accelerate")
QUICK_JOBS = ("tabular_mlp",)
QUICK_WAYS = ("plain", "plain_again", "ddp", "meshwright", "meshwright_one")


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a contest over one job gave.

    Args:
        seconds: per step, by way and round (s).
        run: folder of Meshwright's own run.
        planning: from the command to the plan, with starting Python and torch and the script up to its first step (s).
    """

    seconds: dict[str, list[float]]
    run: Path
    planning: float


def measure(name: str, ways: tuple[str, ...], *, rounds: int, block: float) -> Measured:
    """Lets the ways train a job in turns."""
    folder = Path(tempfile.mkdtemp(prefix=f"local-{name}-"))
    with Contest(folder) as contest:
        for way in ways:
            print(f"{name}: starting {way}", file=sys.stderr, flush=True)
            contest.start(way, command(way, name, contest.port, folder))
        seconds = contest.rounds(rounds, block=block)
        started = contest.started("meshwright")
    (run,) = (folder / "meshwright").iterdir()
    planned = (run / "planning" / "plan.toml").stat().st_mtime
    return Measured(seconds=seconds, run=run, planning=planned - started)


def row_of(name: str, measured: Measured) -> dict[str, Any]:
    """One job's line of the table."""
    seconds, run = measured.seconds, measured.run
    plan = tomllib.loads((run / "plan.toml").read_text(encoding="utf-8"))
    measurement = tomllib.loads((run / "measurement.toml").read_text(encoding="utf-8"))
    size = plan["strategy"]["batch"]["size"]
    ours = seconds["meshwright"]
    row: dict[str, Any] = {"job": name}
    row |= {f"{way} samples/s": size / median(times) for way, times in seconds.items()}
    row |= {f"vs {way}": ratio(seconds[way], ours) for way in seconds if way in RIVALS}
    row["one worker / plain"] = ratio(typical(seconds, ONE), typical(seconds, PLAIN))
    row["one worker: slowest / fastest process"] = spread(seconds, ONE)
    row["plain: slowest / fastest process"] = spread(seconds, PLAIN)
    row["planning s"] = measured.planning
    row["predicted s"] = sum(plan["prediction"]["time"].values())
    row["measured s"] = median(ours)
    row["predicted B"] = sum(plan["prediction"]["memory"].values())
    row["measured B"] = measurement["memory"]
    return row


def ratio(times: list[float], reference: list[float]) -> float:
    """Median over the rounds of one way's seconds per step over another's."""
    return median(a / b for a, b in zip(times, reference, strict=True))


def typical(seconds: dict[str, list[float]], ways: tuple[str, ...]) -> list[float]:
    """The median over equal processes, round by round (s)."""
    there = [seconds[way] for way in ways if way in seconds]
    return [median(times) for times in zip(*there, strict=True)]


def spread(seconds: dict[str, list[float]], ways: tuple[str, ...]) -> float:
    """The slowest of equal processes over the fastest."""
    steps = [median(seconds[way]) for way in ways if way in seconds]
    return max(steps) / min(steps)


def checks_of(rows: list[dict[str, Any]]) -> list[outcome.Check]:
    """One check per target."""
    checks = [
        outcome.at_least(f"{row['job']}: speed over the best of the others", min(_rivals(row)), 0.97) for row in rows
    ]
    speedups = [row["vs plain"] for row in rows]
    checks.append(
        outcome.at_least("speed over the plain script, geometric mean", prod(speedups) ** (1 / len(speedups)), 1.4)
    )
    checks += [
        outcome.at_most(f"{row['job']}: plan 'one worker' over the plain script", row["one worker / plain"], 1.02)
        for row in rows
    ]
    checks += [outcome.at_most(f"{row['job']}: planning (s)", row["planning s"], 10) for row in rows]
    errors = [abs(row["predicted s"] / row["measured s"] - 1) for row in rows]
    checks.append(outcome.at_most("error of predicted step time, median", median(errors), 0.10))
    checks.append(outcome.at_most("error of predicted step time, worst", max(errors), 0.25))
    memory = [abs(row["predicted B"] / row["measured B"] - 1) for row in rows]
    checks.append(outcome.at_most("error of predicted peak memory, worst", max(memory), 0.10))
    return checks


def _rivals(row: dict[str, Any]) -> list[float]:
    return [value for name, value in row.items() if name.startswith("vs ")]


def main() -> int:
    """Runs the contest and publishes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=tuple(JOBS), default=tuple(JOBS), help="which models")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way")
    parser.add_argument("--block", type=float, default=0.5, help="length of a turn (s)")
    parser.add_argument("--quick", action="store_true", help="one model, fewer ways, under a minute")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = parser.parse_args()
    there = outcome.machine()
    jobs, ways, rounds, block = chosen.jobs, WAYS, chosen.rounds, chosen.block
    if chosen.quick:
        jobs, ways, rounds, block = QUICK_JOBS, QUICK_WAYS, 3, 0.3
    rows = []
    for name in jobs:
        rows.append(row_of(name, measure(name, ways, rounds=rounds, block=block)))
    return outcome.publish(rows, checks_of(rows), there=there, as_json=chosen.json)


if __name__ == "__main__":
    sys.exit(main())
