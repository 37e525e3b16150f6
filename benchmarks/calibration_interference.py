"""Fits how much exchanges and computing slow each other to timings of two that ran at the same time.

A timing of a matrix product and an all-gather, or copies to or from the host, is compared with the same two alone in
the same run of the profiler. Each of its runs gives a pair of factors; a kind of link gets their medians, so that one
odd machine bends nothing. Errors are of the two factors of a kind on every timing, and with its device left out.
"""

import csv
import gzip
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from calibration_fit import Vector
from meshwright.cost.accelerator import Slowdown, exposed
from meshwright.errors import UsageError

_COLUMNS = ("gemm_n", "allgather_out_mib", "h2d_mib", "d2h_mib")
# Error from which on a timing loses influence.
_OUTLIER = 0.05
# A factor beyond this says that the two took turns: no more of it can be told.
_MOST = 4.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """Timings of two at once, by one run of the profiler.

    Args:
        kind: field of `Interference`.
        device: what it ran on.
        computing: alone (s).
        exchange: alone (s).
        both: at the same time (s).
    """

    kind: str
    device: str
    computing: Vector
    exchange: Vector
    both: Vector

    def errors(self, slowdown: Slowdown) -> Vector:
        """Logarithms of predicted over measured."""
        return np.log((self.computing + exposed(self.exchange, self.computing, slowdown)) / self.both)


def read_overlaps(path: Path) -> list[Overlap]:
    """Every run of the profiler that timed two at once and each of them alone.

    Raises:
        UsageError: no such file.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UsageError(f"{path} cannot be read", cause=str(error)) from None
    runs: dict[tuple[str, ...], list[Mapping[str, str]]] = defaultdict(list)
    for row in rows:
        runs[row["hardware"], row["n_nodes"], row["intra_group_size"], row["source_ref"]].append(row)
    return [found for key, members in runs.items() for found in _overlaps(key[0], int(key[1]), members)]


def _overlaps(device: str, hosts: int, rows: Sequence[Mapping[str, str]]) -> list[Overlap]:
    alone: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        at_work = _at_work(row)
        if len(at_work) == 1:
            alone[at_work[0], row[at_work[0]]].append(float(row["latency_ms"]) / 1e3)
    timed: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for row in rows:
        at_work = _at_work(row)
        if len(at_work) != 2 or at_work[0] != "gemm_n":
            continue
        both = [alone.get((name, row[name])) for name in at_work]
        if both[0] and both[1]:
            kind = _kind(device, hosts) if at_work[1] == "allgather_out_mib" else "host_copies"
            timed[kind].append((float(np.median(both[0])), float(np.median(both[1])), float(row["latency_ms"]) / 1e3))
    found = []
    for kind, times in timed.items():
        computing, exchange, both_times = np.array(times).T
        found.append(Overlap(kind=kind, device=device, computing=computing, exchange=exchange, both=both_times))
    return found


def _at_work(row: Mapping[str, str]) -> list[str]:
    return [name for name in _COLUMNS if float(row[name] or 0)]


def _kind(device: str, hosts: int) -> str:
    return "network" if hosts > 1 else "pcie" if "PCIe" in device else "link"


def fit_interference(overlaps: Sequence[Overlap]) -> tuple[dict[str, dict[str, float]], list[dict[str, Any]]]:
    """Factors of every kind as the calibration's document has them, and their errors."""
    pairs = [_pair(one) for one in overlaps]
    document, rows = {}, []
    for kind in dict.fromkeys(one.kind for one in overlaps):
        mine = [index for index, one in enumerate(overlaps) if one.kind == kind]
        factors = _medians([pairs[index] for index in mine])
        document[kind] = {name: round(value, 4) for name, value in asdict(factors).items()}
        fitted = np.concatenate([overlaps[index].errors(factors) for index in mine])
        left_out = [
            overlaps[index].errors(_medians(others))
            for index in mine
            if (others := [pairs[i] for i in mine if overlaps[i].device != overlaps[index].device])
        ]
        unaware = np.concatenate([overlaps[index].errors(Slowdown()) for index in mine])
        rows.append(
            {"slowdown of": kind, "rows": len(fitted), **document[kind], "fitted, median": _median(fitted),
             "without device, median": _median(np.concatenate(left_out)) if left_out else float("nan"),
             "no slowdown, median": _median(unaware)}
        )  # fmt: skip
    return document, rows


def _pair(overlap: Overlap) -> Slowdown:
    def residuals(unknown: Vector) -> Vector:
        return overlap.errors(Slowdown(computing=float(unknown[0]), exchange=float(unknown[1])))

    found = least_squares(residuals, [1.1, 1.1], bounds=(1.0, _MOST), loss="soft_l1", f_scale=_OUTLIER).x
    return Slowdown(computing=float(found[0]), exchange=float(found[1]))


def _medians(pairs: Sequence[Slowdown]) -> Slowdown:
    return Slowdown(
        computing=float(np.median([one.computing for one in pairs])),
        exchange=float(np.median([one.exchange for one in pairs])),
    )


def _median(errors: Vector) -> float:
    return float(np.median(np.abs(np.expm1(errors))))
