"""How near predictions of published runs came to what was measured: for each source, and a check for each target.

The only module here that reads measured columns, after predictions have been written from the others.
"""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from outcome import Check, at_least, at_most
from published_rows import measured_step_time

# Runs of one model, batch and number of devices that are ranked, at least.
_GROUP = 8
_TIE = 1 + 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """One run.

    Args:
        group: model, devices and batch, within which plans compete.
        ok: whether it ran.
        measured: step (s); None where it failed or does not say.
        predicted: step (s).
        low: of the 90 % interval (s).
        high: of the interval (s).
        memory: predicted over measured peak; None where none was measured.
        fits: whether it was predicted to.
    """

    group: tuple[str, ...]
    ok: bool
    measured: float | None
    predicted: float
    low: float
    high: float
    memory: float | None
    fits: bool


def read_scored(rows: Sequence[Mapping[str, str]], predictions: Path) -> dict[str, list[Scored]]:
    """Runs with a prediction, by source."""
    with predictions.open(newline="", encoding="utf-8") as file:
        known = {line["row_id"]: line for line in csv.DictReader(file)}
    found: dict[str, list[Scored]] = defaultdict(list)
    for row in rows:
        line = known.get(row["row_id"])
        if line is not None:
            found[row["source"]].append(_scored(row, line))
    return found


def _scored(row: Mapping[str, str], line: Mapping[str, str]) -> Scored:
    ok = row["status"] == "ok"
    peak = float(row["memory_gib"]) if ok and row["memory_gib"] else None
    return Scored(
        group=tuple(row[name] for name in ("model", "n_devices", "global_batch", "seq_len")),
        ok=ok,
        measured=measured_step_time(row),
        predicted=float(line["predicted_step_time_s"]),
        low=float(line["low_step_time_s"]),
        high=float(line["high_step_time_s"]),
        memory=float(line["predicted_memory_gib"]) / peak if peak else None,
        fits=line["predicted_fits"] == "true",
    )


def source_row(source: str, runs: Sequence[Scored], *, rows: int) -> dict[str, Any]:
    """A source's figures; those that it has no measurements for are left out.

    Args:
        rows: of the source, predicted or not.
    """
    timed = [run for run in runs if run.measured]
    errors = [abs(run.predicted / run.measured - 1) for run in timed if run.measured]
    sizes = [abs(run.memory - 1) for run in runs if run.memory is not None]
    kept, caught = [run.fits for run in runs if run.ok], [not run.fits for run in runs if not run.ok]
    ranks, regrets = _competitions(runs)
    found: dict[str, Any] = {"source": source, "rows": rows, "coverage": len(runs) / rows}
    if errors:
        inside = [run.low <= run.measured <= run.high for run in timed if run.measured]
        found |= {"time_median": _quantile(errors, 0.5), "time_p90": _quantile(errors, 0.9),
                  "inside_interval": float(np.mean(inside))}  # fmt: skip
    if ranks:
        found |= {"rank": float(np.mean(ranks)), "regret_mean": float(np.mean(regrets)), "regret_worst": max(regrets)}
    if sizes:
        found |= {"memory_median": _quantile(sizes, 0.5), "memory_p90": _quantile(sizes, 0.9)}
    if kept:
        found["kept"] = float(np.mean(kept))
    if caught:
        found["caught"] = float(np.mean(caught))
    return found


def checks_of(row: Mapping[str, Any]) -> list[Check]:
    """One check for every target that a source has figures for."""
    most = {
        "time_median": 0.08, "time_p90": 0.2, "regret_mean": 0.03, "regret_worst": 0.1, "memory_median": 0.04,
        "memory_p90": 0.12,
    }  # fmt: skip
    least = {"rank": 0.97, "kept": 0.98, "caught": 0.85, "inside_interval": 0.85}
    source = row["source"]
    return [
        *(at_most(f"{source}: {name}", row[name], bound) for name, bound in most.items() if name in row),
        *(at_least(f"{source}: {name}", row[name], bound) for name, bound in least.items() if name in row),
    ]


def _competitions(runs: Sequence[Scored]) -> tuple[list[float], list[float]]:
    """Of every group that is large enough: rank correlation, and what choosing the plan predicted fastest loses.

    A choice that failed loses everything; of several that are predicted alike the mean counts.
    """
    groups: dict[tuple[str, ...], list[Scored]] = defaultdict(list)
    for run in runs:
        if run.measured or not run.ok:
            groups[run.group].append(run)
    ranks, regrets = [], []
    for members in groups.values():
        ran = [run for run in members if run.measured]
        if len(ran) < _GROUP:
            continue
        times = [run.measured for run in ran]
        ranks.append(float(spearmanr([run.predicted for run in ran], times).statistic))
        candidates = [run for run in members if run.fits] or members
        fastest, best = min(run.predicted for run in candidates), min(run.measured for run in ran if run.measured)
        chosen = [run for run in candidates if run.predicted <= fastest * _TIE]
        regrets.append(float(np.mean([1 - best / run.measured if run.measured else 1.0 for run in chosen])))
    return ranks, regrets


def _quantile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(values, share))
