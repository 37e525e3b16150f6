"""Fits every free parameter of accelerators' steps and memory to published measurements; says how far it carries over.

    python benchmarks/calibrate.py FOLDER [--quick] [--json]   # fit, cross-validate, print; changes nothing
    python benchmarks/calibrate.py FOLDER --write              # and write calibration.toml and memory.toml

FOLDER has measurements.csv, layer_profiles.csv, op_profiles.csv.gz, network_calibration.csv and
overlap_interference.csv.gz. Parameters, what is known of them beforehand and where from: calibration_priors.toml for
time, calibration_memory.py for memory. The rows have, for each source, the error of the fit on it, the error when it,
its models, its numbers of devices or its kinds of device one by one were left out of the fit, and the share of its runs
inside intervals made without their model; checks are on models that were left out. What `_CHOSEN` and the priors read
off the runs holds for all columns: the form of the model has seen every row. `--quick` fits time alone, from the last
fit on.
"""

import argparse
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

import outcome
from calibration_fit import STALLING, Problem, Vector, fit, newton_move, read_priors
from calibration_interference import fit_interference, read_overlaps
from calibration_intervals import runs_of, shares_inside, with_intervals
from calibration_layers import layer_points, operation_points
from calibration_memory import fit_memory, write_memory
from calibration_points import Point, collective_points, product_points, run_points
from calibration_stalls import Waits, fit_stalls
from meshwright.errors import MeshwrightError

_HERE = Path(__file__).resolve().parent
_TARGET = _HERE.parent / "src" / "meshwright" / "cost" / "accelerator" / "calibration.toml"
# What is not fitted but chosen from looking at the residuals, with the reason in `Habits`.
_CHOSEN: dict[str, Any] = {
    # Errors on sources that were left out whole, with devices of their own: 5 to 26 % in the median.
    "kernels": {"other_spread": 1.2},
    # Bytes between products that were fitted over those that captures of 40 published models count: 0.65 with a gate
    # and rotary positions, 1.35 without, frameworks' own kernels against operations of torch.
    "traffic": {"captured": 1.15},
    "frameworks": {
        "nanotron": {
            "stall_share_per_host": 0.018,
            # Its trainer sums them where no replica's hooks do, after the backward; its code says why: memory.
            "sharded_sums": "whole",
        },
        "fsdp": {"gradient_bytes": 2.0},
        # Its buckets hold 40 M parameters, or 1 M per data rank where that is more.
        "megatron_core": {"bucket_per_rank": 2e6},
    },
}
_ROUNDS = 14
# Newton steps after points were left out: parameters move little, and their derivatives less.
_LEFT_OUT_ROUNDS = 3
_QUICK_ROUNDS = 3
# Single kernels, collectives and layers, which are no runs.
_SINGLE = ("products", "collectives", "layers")


@dataclass(frozen=True, slots=True)
class Left:
    """A way to leave points out."""

    name: str
    key: Callable[[Point], str]


_WAYS = (
    Left("source", lambda point: point.source),
    Left("model", lambda point: point.model),
    Left("devices", lambda point: f"{point.source}: {point.size}"),
    Left("hardware", lambda point: point.device),
)


def left_out_errors(problem: Problem, logs: Vector, errors: Vector, jacobian: Vector, way: Left) -> Vector:
    """Errors of every point by a fit that did not see it, neither its parameters nor its rules of what stalls."""
    keys = np.array([way.key(point) for point in problem.points])
    seen_stalls = Waits.of(problem, logs)
    found = errors.copy()
    for key in dict.fromkeys(keys):
        rows = np.array([row for row in np.flatnonzero(keys == key) if problem.points[row].setup is not None])
        if not len(rows):
            continue
        other = problem.with_stalls(fit_stalls(seen_stalls, kept=keys != key))
        begun, slopes = (errors, jacobian) if other == problem else _linearised(other, logs)
        moved, seen = logs, begun
        for _ in range(_LEFT_OUT_ROUNDS):
            moved = moved + newton_move(other, moved, seen, slopes, kept=keys != key)
            seen = begun + slopes @ (moved - logs)
        found[rows] = other.errors(moved, list(rows))
    return found


def _linearised(problem: Problem, logs: Vector) -> tuple[Vector, Vector]:
    errors = problem.errors(logs)
    return errors, problem.jacobian(logs, errors)


def quantile(errors: Vector, share: float) -> float:
    """Of |predicted / measured - 1|."""
    return float(np.quantile(np.abs(np.expm1(errors)), share)) if len(errors) else float("nan")


def table_of(problem: Problem, columns: dict[str, Vector], inside: Mapping[str, float]) -> list[dict[str, Any]]:
    """Median and 90th percentile of every source, fitted and left out, and the share inside its intervals."""
    sources = np.array([point.source for point in problem.points])
    table = []
    for source in dict.fromkeys(sources):
        rows = sources == source
        cells = {f"{name}, median": quantile(errors[rows], 0.5) for name, errors in columns.items()}
        cells |= {f"{name}, p90": quantile(errors[rows], 0.9) for name, errors in columns.items()}
        cells["inside"] = inside.get(str(source), float("nan"))
        table.append({"time of": str(source), "rows": int(rows.sum()), **cells})
    return table


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedTime:
    """What was fitted.

    Args:
        rows: errors of every source.
        slowdowns: of exchanges and computing by kind of link, with their errors.
        document: the calibration.
        inside: share of the runs inside intervals made without their model, by source and in the mean.
    """

    rows: Sequence[Mapping[str, Any]]
    slowdowns: Sequence[Mapping[str, Any]]
    document: dict[str, Any]
    inside: Mapping[str, float]


def fit_time(folder: Path, *, rounds: int) -> FittedTime:
    """Fits what steps take.

    Raises:
        UsageError: a file is missing, or lacks columns.
    """
    points = (
        run_points(folder / "measurements.csv")
        + product_points(folder / "op_profiles.csv.gz")
        + collective_points(folder / "network_calibration.csv")
        + layer_points(folder / "layer_profiles.csv")
        + operation_points(folder / "op_profiles.csv.gz")
    )
    earlier = tomllib.loads(_TARGET.read_text(encoding="utf-8"))
    interference, slowdowns = fit_interference(read_overlaps(folder / "overlap_interference.csv.gz"))
    chosen = _CHOSEN | {"network": {"interference": interference}}
    problem = Problem(points, read_priors(_HERE / "calibration_priors.toml"), chosen).with_stalls(
        earlier["frameworks"][STALLING].get("stalls", {})
    )
    logs = fit(problem, problem.begin(earlier), rounds=rounds, report=lambda _: None)
    problem = problem.with_stalls(fit_stalls(Waits.of(problem, logs)))
    logs = fit(problem, logs, rounds=rounds, report=lambda _: None)
    errors, jacobian = _linearised(problem, logs)
    columns = {"fitted": errors}
    for way in _WAYS:
        columns[f"without {way.name}"] = left_out_errors(problem, logs, errors, jacobian, way)
    runs = runs_of(problem, logs, by_model=columns["without model"], by_source=columns["without source"])
    inside = shares_inside(runs)
    document = with_intervals(problem.document(logs), runs)
    rows = table_of(problem, columns, inside)
    return FittedTime(rows=rows, slowdowns=slowdowns, document=document, inside=inside)


def checks_of(time: FittedTime, memory: Sequence[Mapping[str, Any]]) -> list[outcome.Check]:
    """Targets on models that were left out."""
    found = []
    for counted in ("runs", "sources"):
        name, share = f"share of {counted} in 90 % intervals, model left out", time.inside[counted]
        found += [outcome.at_least(name, share, 0.85), outcome.at_most(name, share, 0.95)]
    for row in time.rows:
        if row["time of"] not in _SINGLE:
            for part, bound in (("median", 0.08), ("p90", 0.2)):
                name = f"step time of {row['time of']}, model left out, {part}"
                found.append(outcome.at_most(name, row[f"without model, {part}"], bound))
    for row in memory:
        if row["left out"] == "model":
            for part, bound in (("median", 0.04), ("p90", 0.12)):
                name = f"memory of {row['memory of']}, model left out, {part}"
                found.append(outcome.at_most(name, row[part], bound))
    return found


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true", help="write the package's calibration.toml and memory.toml")
    parser.add_argument("--quick", action="store_true", help="time alone, three rounds")
    parser.add_argument("--json", action="store_true", help="one object: machine, rows, checks")
    chosen = parser.parse_args(arguments)
    there = outcome.machine()
    try:
        time = fit_time(chosen.folder, rounds=_QUICK_ROUNDS if chosen.quick else _ROUNDS)
        ways = ("model", "workers", "tenth")
        memory = None if chosen.quick else fit_memory(chosen.folder / "measurements.csv", ways=ways)
    except MeshwrightError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    errors = list(memory.rows) if memory is not None else []
    if chosen.write:
        _TARGET.write_text(_HEADER + tomli_w.dumps(time.document), encoding="utf-8")
        if memory is not None:
            write_memory(memory.factors)
    checks = checks_of(time, errors)
    if chosen.json:
        return outcome.publish([*time.rows, *time.slowdowns, *errors], checks, there=there, as_json=True)
    for table in (errors, time.slowdowns):
        outcome.publish(table, [], there=there, as_json=False)
    return outcome.publish(time.rows, checks, there=there, as_json=False)


_HEADER = """\
# Fitted by benchmarks/calibrate.py to published measurements. What each value means: `_calibration.py` here;
# what was known of it before, and from where: benchmarks/calibration_priors.toml.

"""

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
