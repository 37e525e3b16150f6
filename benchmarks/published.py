"""Predicts published measurements from their configuration columns alone.

    python benchmarks/published.py MEASUREMENTS.csv PREDICTIONS.csv                    # predict
    python benchmarks/published.py MEASUREMENTS.csv PREDICTIONS.csv --json             # and score, a check per target
    python benchmarks/published.py MEASUREMENTS.csv PREDICTIONS.csv --through planner  # by what `meshwright plan` runs

MEASUREMENTS.csv has a row per run with the columns of `published_rows.NEEDED`; PREDICTIONS.csv gets row_id,
predicted_step_time_s, low_step_time_s and high_step_time_s (a 90 % interval), predicted_memory_gib, predicted_fits. A
row that the model cannot express is left out, and standard error says why. No prediction reads a column that was
measured; scores are worked out afterwards, from the file of predictions.

Through `dimensions`, a transformer's layers are priced from their dimensions; through `planner`, its model is written
in torch, captured on the meta device, and priced with a cluster and a layout as a user's script is. Both use the same
kernels, collectives and rules of what hides what. `--quick` takes every tenth row.
"""

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import outcome
from meshwright.cost.accelerator import step_time
from meshwright.errors import MeshwrightError, UsageError
from meshwright.units import GIB
from published_memory import filled_setup, published_memory
from published_rows import PublishedRow, configuration, read_rows
from published_score import checks_of, read_scored, source_row
from published_setup import machine_of_row

Step = Callable[[PublishedRow], tuple[float, float, float]]
COLUMNS = (
    "row_id", "predicted_step_time_s", "low_step_time_s", "high_step_time_s", "predicted_memory_gib", "predicted_fits",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Way:
    """How a run is priced.

    Args:
        step: low, expected and high step time (s).
        peak: of the worker that its source reports (B); None: by its dimensions too.
    """

    step: Step
    peak: Callable[[PublishedRow], int] | None = None


def by_dimensions(run: PublishedRow) -> tuple[float, float, float]:
    """Low, expected and high step time of a transformer known by its dimensions (s)."""
    time = step_time(filled_setup(run), machine_of_row(run))
    return time.low, time.step, time.high


_DIMENSIONS = Way(by_dimensions)


def predicted(row: Mapping[str, str], way: Way = _DIMENSIONS) -> dict[str, str]:
    """One line of the predictions.

    Raises:
        MeshwrightError: the model cannot express the row; says why.
    """
    run = configuration(row)
    try:
        low, expected, high = way.step(run)
        memory = published_memory(run)
        seen = way.peak(run) if way.peak is not None else memory.seen
    except (ArithmeticError, ValueError, IndexError) as error:
        raise UsageError(f"row {run.row_id}: its sizes do not belong together ({error})") from error
    if not all(map(isfinite, (low, expected, high, seen))) or expected <= 0:
        raise UsageError(f"row {run.row_id}: no finite step time comes of its sizes")
    return {
        "row_id": run.row_id,
        "predicted_step_time_s": f"{expected:.6g}",
        "low_step_time_s": f"{low:.6g}",
        "high_step_time_s": f"{high:.6g}",
        "predicted_memory_gib": f"{seen / GIB:.4g}",
        "predicted_fits": "true" if memory.fits else "false",
    }


def write_predictions(
    rows: Iterable[Mapping[str, str]], path: Path, way: Way = _DIMENSIONS
) -> tuple[int, Counter[str]]:
    """Writes what can be predicted; returns how many rows, and why the others could not.

    Raises:
        UsageError: the file cannot be written.
    """
    lines: list[dict[str, str]] = []
    reasons: Counter[str] = Counter()
    for row in rows:
        try:
            lines.append(predicted(row, way))
        except MeshwrightError as error:
            reasons[error.fact.partition(": ")[2] or error.fact] += 1
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(lines)
    except OSError as error:
        raise UsageError(f"{path} cannot be written", cause=str(error)) from None
    return len(lines), reasons


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurements", type=Path)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--through", choices=("dimensions", "planner"), default="dimensions")
    parser.add_argument("--quick", action="store_true", help="every tenth row")
    parser.add_argument("--score", action="store_true", help="compare with what was measured")
    parser.add_argument("--json", action="store_true", help="likewise, as one object")
    paths = parser.parse_args(arguments)
    there = outcome.machine()
    try:
        rows = read_rows(paths.measurements)[:: 10 if paths.quick else 1]
        count, reasons = write_predictions(rows, paths.predictions, _through(paths.through))
    except MeshwrightError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for reason, times in reasons.most_common():
        print(f"{times} left out: {reason}", file=sys.stderr)
    if paths.score or paths.json:
        return _scored(rows, paths.predictions, there=there, as_json=paths.json)
    print(f"{count} of {len(rows)} rows predicted: {paths.predictions}")
    return 0


def _through(name: str) -> Way:
    """Prices by the planner need torch, prices by dimensions do not."""
    if name == "dimensions":
        return _DIMENSIONS
    from published_graph import by_planner, peak_by_planner

    return Way(by_planner, peak_by_planner)


def _scored(rows: Sequence[Mapping[str, str]], path: Path, *, there: Mapping[str, Any], as_json: bool) -> int:
    found = read_scored(rows, path)
    sizes = Counter(row["source"] for row in rows)
    table = [source_row(source, runs, rows=sizes[source]) for source, runs in sorted(found.items())]
    checks = [check for row in table for check in checks_of(row)]
    columns = list(dict.fromkeys(name for row in table for name in row))
    whole = [{name: row.get(name, "") for name in columns} for row in table]
    return outcome.publish(whole, checks, there=there, as_json=as_json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
