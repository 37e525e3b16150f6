"""What `meshwright run` predicts of every method of the product, beside what the steps then take on this machine.

    python benchmarks/predictions.py --quick                       # one worker, two of data, two of tensor
    python benchmarks/predictions.py --rows rows.jsonl --budget 240  # what fits into 240 s; again: the next ones
    python benchmarks/predictions.py --methods tensor-2 pipeline-2 --json

A GPT of 3.7M parameters, and a mixture of experts for the expert axis (and, to tell apart what is its operations' and
what is the axis's error, on one worker and on two of data), each as its script is written for one device, is run under
`meshwright run --set …`. Two predictions are judged: the one that the run prints before its first step, which is a
trial's where there was one, and the one by the model of cost alone. The machine is measured first, into a cache that
holds nothing else, so that no outcome of an earlier run corrects what is predicted. The planner refuses more workers
than cores; such methods are run with `--cluster`, a description of this machine with as many cores as workers, each
with its part of the measured rates, and with exchanges as they are measured among so many; the longest split of the
sequence is two, since each worker keeps 64 positions. Run it on a machine that does nothing else: its load is in the
prediction, and in the steps.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from statistics import median
from typing import cast

import outcome
from crowded_machine import crowd_rates, taking_turns
from meshwright.cost import Schedule, balanced_bubble
from meshwright.hardware import Cluster, here, identity, read_cluster, write_cluster
from meshwright.hardware._cache import calibration_path
from meshwright.plan import read_plan
from meshwright.units import format_bytes, format_seconds
from referee import HERE

METHODS: dict[str, tuple[str, ...]] = {
    "one": ("workers=1",),
    "data-2": ("data=2", "shard=1"),
    "data-4": ("data=4", "shard=1"),
    "data-8": ("data=8", "shard=1"),
    **{
        f"{level}-{count}": (f"shard={count}", "data=1", f"sharding={level}")
        for level in ("optimizer", "gradients", "parameters")
        for count in (2, 4)
    },
    "tensor-2": ("tensor=2", "workers=2"),
    "tensor-4": ("tensor=4", "workers=4"),
    "sequence-2": ("tensor=2", "sequence=split", "workers=2"),
    "sequence-4": ("tensor=4", "sequence=split", "workers=4"),
    "context-2": ("context=2", "workers=2"),
    "pipeline-2": ("pipeline=2", "schedule=1f1b", "accumulation=4", "workers=2"),
    "pipeline-4": ("pipeline=4", "schedule=1f1b", "accumulation=4", "workers=4"),
    "gpipe-2": ("pipeline=2", "schedule=gpipe", "accumulation=4", "workers=2"),
    "gpipe-4": ("pipeline=4", "schedule=gpipe", "accumulation=4", "workers=4"),
    **{
        f"{schedule}-2": ("pipeline=2", f"schedule={schedule}", "accumulation=4", "workers=2")
        for schedule in ("interleaved", "zero_bubble")
    },
    "mixture-one": ("workers=1",),
    "mixture-data-2": ("data=2", "shard=1"),
    "expert-2": ("expert=2", "workers=2"),
    "expert-4": ("expert=4", "workers=4"),
    "expert-2-context-2": ("expert=2", "context=2", "workers=2"),
    "tensor-2-data-2": ("tensor=2", "data=2", "workers=4"),
    "context-2-data-2": ("context=2", "data=2", "workers=4"),
    "tensor-2-context-2": ("tensor=2", "context=2", "workers=4"),
    "pipeline-2-data-2": ("pipeline=2", "data=2", "accumulation=2", "workers=4"),
    "pipeline-2-data-4": ("pipeline=2", "data=4", "accumulation=2", "workers=8"),
    "pipeline-2-shard-2-tensor-2": ("pipeline=2", "shard=2", "tensor=2", "accumulation=2", "workers=8"),
}
QUICK = ("one", "data-2", "tensor-2")
TARGET = 0.15


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One method.

    Args:
        method: its name here.
        plan: what the planner made of its pins.
        workers: processes.
        cores: of this machine.
        predicted: step, by the model alone (s).
        trial: the same after the trial, where there was one; else 0 (s).
        measured: median step (s).
        low: of the prediction that the run showed (s).
        high: likewise (s).
        predicted_memory: of the fullest worker (B).
        measured_memory: likewise (B).
    """

    method: str
    plan: str
    workers: int
    cores: int
    predicted: float
    trial: float
    measured: float
    low: float
    high: float
    predicted_memory: int
    measured_memory: int

    @property
    def error(self) -> float:
        """Predicted over measured step, less one."""
        return self.predicted / self.measured - 1

    @property
    def memory_error(self) -> float:
        """Predicted over measured memory, less one."""
        return self.predicted_memory / self.measured_memory - 1


def workers_of(method: str) -> int:
    """How many workers a method has."""
    degrees = dict(pin.split("=") for pin in METHODS[method])
    axes = ("data", "shard", "tensor", "context", "expert", "pipeline")
    return int(degrees.get("workers", 0)) or prod(int(degrees.get(axis, 1)) for axis in axes)


def idle_share(method: str) -> float:
    """Share of their time in which the workers of a method's pipeline wait: the bubble of its schedule.

    Where no schedule is asked for, the planner interleaves two stages of a worker.
    """
    pins = dict(pin.split("=") for pin in METHODS[method])
    length = int(pins.get("pipeline", 1))
    if length == 1:
        return 0.0
    schedule = cast("Schedule", pins.get("schedule", "interleaved"))
    chunks = 2 if schedule in ("interleaved", "zero_bubble") else 1
    return balanced_bubble(
        schedule, num_workers=length, num_stages=chunks * length, num_micro_batches=int(pins["accumulation"])
    )


class MethodError(Exception):
    """A method did not run; says why."""


def measured(method: str, *, steps: int, machine: Cluster) -> Row:
    """Runs a method under the product's own command.

    Raises:
        MethodError: the run ended otherwise than well.
    """
    model = "mixture" if method.startswith(("mixture", "expert")) else "gpt"
    sets = [word for pin in (*METHODS[method], "compiled=false") for word in ("--set", pin)]
    with tempfile.TemporaryDirectory(prefix="predictions-") as folder:
        crowd = workers_of(method)
        if crowd > (os.cpu_count() or 1):
            description = Path(folder) / "cluster.toml"
            write_cluster(taking_turns(machine, crowd, idle=idle_share(method), crowd=crowd_rates(crowd)), description)
            sets += ["--cluster", str(description)]
        script = [str(HERE / "predictions_contestant.py"), model, str(steps)]
        product = str(Path(sys.executable).parent / "meshwright")
        done = subprocess.run(
            [product, "run", "--json", "--output", folder, *sets, *script],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise MethodError(done.stderr.strip()[-2000:])
        said = json.loads(done.stdout)
        plan = read_plan(Path(said["folder"]) / "plan.toml")
    prediction, measurement = plan.prediction, said["measurement"]
    return Row(
        method=method,
        plan=said["plan"],
        workers=plan.strategy.num_workers,
        cores=os.cpu_count() or 1,
        predicted=plan.candidates[0].step or prediction.time.step,
        trial=prediction.time.step if prediction.basis == "trial" else 0.0,
        measured=measurement["step"],
        low=prediction.low,
        high=prediction.high,
        predicted_memory=prediction.memory.peak,
        measured_memory=measurement["memory"],
    )


def calibrated(cache: Path, *, measured_before: Path | None = None) -> Cluster:
    """This machine, measured now or before, as the only thing in a cache.

    Args:
        cache: folder to make.
        measured_before: a cluster that `meshwright hardware --save` wrote here; None: measure now.
    """
    os.environ["MESHWRIGHT_CACHE"] = str(cache)
    if measured_before is None:
        return here(fresh=True, progress=lambda line: print(line, file=sys.stderr, flush=True))
    write_cluster(read_cluster(measured_before), calibration_path(identity()))
    return here()


def known(path: Path | None) -> dict[str, Row]:
    """Rows of earlier runs."""
    lines = path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else []
    rows = [Row(**json.loads(line)) for line in lines]
    return {row.method: row for row in rows}


def line(row: Row) -> str:
    """A row for people."""
    times = f"{format_seconds(row.predicted):>9} took {format_seconds(row.measured):>9} {row.error:+7.1%}"
    memory = f"{format_bytes(row.predicted_memory)} took {format_bytes(row.measured_memory)} {row.memory_error:+.1%}"
    tried = f"  trial {row.trial / row.measured - 1:+.1%}" if row.trial else ""
    return f"{row.method:28} {row.workers} on {row.cores}  {times}   memory {memory}{tried}   {row.plan}"


def checks_of(rows: Sequence[Row]) -> list[outcome.Check]:
    """Median errors of time and memory over all methods."""
    if not rows:
        return []
    times = median(abs(row.error) for row in rows)
    announced = median(abs((row.trial or row.predicted) / row.measured - 1) for row in rows)
    memories = median(abs(row.memory_error) for row in rows)
    return [
        outcome.at_most(f"error of announced step times, median of {len(rows)} methods", announced, TARGET),
        outcome.at_most(f"error of step times by the model alone, median of {len(rows)} methods", times, TARGET),
        outcome.at_most(f"error of predicted memory, median of {len(rows)} methods", memories, TARGET),
    ]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three methods, 12 steps each")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of lines")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=tuple(METHODS))
    parser.add_argument(
        "--machine", type=Path, help="cluster file of `meshwright hardware --save`; else measured first"
    )
    parser.add_argument("--rows", type=Path, help="file that keeps finished methods; known ones are not run again")
    parser.add_argument("--budget", type=float, default=1800.0, help="no method starts after so many seconds")
    parser.add_argument("--steps", type=int, default=25, help="of each method; the first five are not counted")
    return parser.parse_args()


def main() -> int:
    """Runs what is not known yet, prints a line for each, and the checks; 1 where one does not hold."""
    chosen = parse()
    methods, steps = (QUICK, 12) if chosen.quick else (chosen.methods, chosen.steps)
    there, rows, ends = outcome.machine(), known(chosen.rows), time.monotonic() + chosen.budget
    failed = 0
    with tempfile.TemporaryDirectory(prefix="predictions-cache-") as cache:
        machine = calibrated(Path(cache), measured_before=chosen.machine)
        for method in (name for name in methods if name not in rows):
            if time.monotonic() > ends:
                break
            try:
                rows[method] = measured(method, steps=steps, machine=machine)
            except MethodError as error:
                failed += 1
                print(f"{method}: {error}", file=sys.stderr, flush=True)
                continue
            print(line(rows[method]), file=sys.stderr, flush=True)
            if chosen.rows is not None:
                with chosen.rows.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(rows[method])) + "\n")
    wanted = [rows[method] for method in methods if method in rows]
    if not chosen.json:
        print("\n".join(line(row) for row in wanted))
    checks = [*checks_of(wanted), outcome.at_most("methods that did not run", failed, 0)]
    shown = [asdict(row) for row in wanted] if chosen.json else []
    return outcome.publish(shown, checks, there=there, as_json=chosen.json)


if __name__ == "__main__":
    sys.exit(main())
