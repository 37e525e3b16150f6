"""Predicts published measurements from their configuration columns alone.

    python benchmarks/published.py MEASUREMENTS.csv PREDICTIONS.csv

MEASUREMENTS.csv has a row per run with the columns of `published_rows.NEEDED`; PREDICTIONS.csv gets row_id,
predicted_step_time_s, low_step_time_s and high_step_time_s (a 90 % interval), predicted_memory_gib, predicted_fits. A
row that the model cannot express is left out, and why is printed. Columns that were measured are never read.
"""

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from meshwright.cost.accelerator import step_time
from meshwright.errors import MeshwrightError, UsageError
from meshwright.units import GIB
from published_memory import published_memory
from published_rows import configuration, read_rows
from published_setup import machine_of_row, setup_of

COLUMNS = (
    "row_id", "predicted_step_time_s", "low_step_time_s", "high_step_time_s", "predicted_memory_gib", "predicted_fits",
)  # fmt: skip


def predicted(row: Mapping[str, str]) -> dict[str, str]:
    """One line of the predictions.

    Raises:
        MeshwrightError: the model cannot express the row; says why.
    """
    run = configuration(row)
    time = step_time(setup_of(run), machine_of_row(run))
    memory = published_memory(run)
    return {
        "row_id": run.row_id,
        "predicted_step_time_s": f"{time.step:.6g}",
        "low_step_time_s": f"{time.low:.6g}",
        "high_step_time_s": f"{time.high:.6g}",
        "predicted_memory_gib": f"{memory.seen / GIB:.4g}",
        "predicted_fits": "true" if memory.fits else "false",
    }


def write_predictions(rows: Iterable[Mapping[str, str]], path: Path) -> tuple[int, Counter[str]]:
    """Writes what can be predicted; returns how many rows, and why the others could not.

    Raises:
        UsageError: the file cannot be written.
    """
    lines: list[dict[str, str]] = []
    reasons: Counter[str] = Counter()
    for row in rows:
        try:
            lines.append(predicted(row))
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
    paths = parser.parse_args(arguments)
    try:
        rows = read_rows(paths.measurements)
        count, reasons = write_predictions(rows, paths.predictions)
    except MeshwrightError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{count} of {len(rows)} rows predicted: {paths.predictions}")
    for reason, times in reasons.most_common():
        print(f"  {times} left out: {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
