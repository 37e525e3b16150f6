"""What the step model is fitted to: published runs, and single kernels and collectives that were timed.

A point compares one prediction with one measurement; which parameters it depends on is known from its framework and
device, so that a derivative is taken only where it is not zero.
"""

import csv
import gzip
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from meshwright.cost.accelerator import Calibration, Collectives, Machine, Setup, kernels, machine, step_time
from meshwright.errors import UsageError
from meshwright.hardware import catalog
from meshwright.hardware._catalog import device_of
from meshwright.units import MIB
from published_hardware import device_name
from published_memory import filled_setup
from published_rows import configuration, measured_step_time, read_rows
from published_setup import EFA_LATENCY, machine_of_row

# Weight of all single kernels, and of all collectives, beside one source of runs.
_SINGLE_WEIGHT = 0.5
# Sources that are large and varied weigh more than one of a few rows.
_SOURCE_WEIGHTS = {"ultrascale": 3.0}
_FULL_SOURCE = 15


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One measurement.

    Args:
        source: who published it.
        model: what ran, with who published it.
        size: devices it ran on.
        framework: class of habits; empty for a kernel or collective.
        device: the maker's name.
        weight: of its squared error.
        measured: seconds.
        predict: seconds, by a calibration, without what stalls.
        setup: of a run.
        machine: of a run.
    """

    source: str
    model: str
    size: int
    framework: str
    device: str
    weight: float
    measured: float
    predict: Callable[[Calibration], float]
    setup: Setup | None = None
    machine: Machine | None = None


def run_points(path: Path) -> list[Point]:
    """Every run of a file of measurements that can be expressed and did not fail."""
    found: list[tuple[Mapping[str, str], float, Setup, Machine]] = []
    for row in read_rows(path):
        measured = measured_step_time(row)
        if measured is None:
            continue
        try:
            run = configuration(row)
        except UsageError:
            continue
        found.append((row, measured, filled_setup(run), machine_of_row(run)))
    sizes = Counter(row["source"] for row, *_ in found)
    return [_run_point(row, measured, setup, where, sizes[row["source"]]) for row, measured, setup, where in found]


def _run_point(row: Mapping[str, str], measured: float, setup: Setup, where: Machine, rows: int) -> Point:
    source = row["source"]

    def predict(fitted: Calibration) -> float:
        time = step_time(setup, where, fitted=fitted)
        return time.step

    return Point(
        source=source,
        model=f"{source}: {row['model']}",
        size=where.num_devices,
        framework=setup.framework,
        device=where.device,
        weight=_SOURCE_WEIGHTS.get(source, 1.0) ** 2 * min(1.0, rows / _FULL_SOURCE) / rows,
        measured=measured,
        predict=predict,
        setup=setup,
        machine=where,
    )


_PRODUCTS: dict[str, Callable[[float, float], tuple[float, float]]] = {
    "enc-attention-qkv": lambda hidden, tp: (hidden, 3 * hidden / tp),
    "enc-MLP-GEMM-1": lambda hidden, tp: (hidden, 4 * hidden / tp),
}


def product_points(path: Path) -> list[Point]:
    """Matrix products' forward times by shape and device."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if _is_product(row)]
    points = []
    for row in rows:
        name = device_name(row["hardware"])
        where = _alone(name)
        inner, columns = _PRODUCTS[row["op"]](float(row["d_model"]), float(row["tp"]))
        tokens = float(row["micro_batch"]) * float(row["seq_len"])

        def predict(
            fitted: Calibration, where: Machine = where, shape: tuple[float, float, float] = (tokens, inner, columns)
        ) -> float:
            return kernels(where, "half", fitted).matrix(*shape) + TIMER

        points.append(
            Point(source="products", model=name, size=1, framework="", device=where.device,
                  weight=_SINGLE_WEIGHT / len(rows), measured=float(row["fwd_us"]) * 1e-6, predict=predict)
        )  # fmt: skip
    return points


# What the profiler's own start and stop add to a timed kernel: intercept of the products' times over their work.
TIMER = 35e-6


def _is_product(row: Mapping[str, str]) -> bool:
    complete = row["op"] in _PRODUCTS and row["fwd_us"] and row["seq_len"] and row["d_model"]
    return bool(complete) and row["algo"] == "0" and 0 < float(row["fwd_us"]) < 1e6


def collective_points(path: Path) -> list[Point]:
    """All-gathers, reduce-scatters and all-reduces of a stated size and stated hardware."""
    with path.open(newline="", encoding="utf-8") as file:
        found = list(_collectives(csv.DictReader(file)))
    return [
        Point(source="collectives", model=name, size=size, framework="", device=name,
              weight=_SINGLE_WEIGHT / len(found), measured=seconds, predict=predict)
        for name, size, seconds, predict in found
    ]  # fmt: skip


def _collectives(rows: Iterator[Mapping[str, str]]) -> Iterator[tuple[str, int, float, Callable[[Calibration], float]]]:
    for row in rows:
        kind, size = row["collective"], int(float(row["group_size"] or 0))
        flat = row["group_layout"] == "flat" and row["message_mib"] and row["busbw_GBps"]
        if kind not in ("all_gather", "reduce_scatter", "all_reduce") or not flat or size < 2:
            continue
        try:
            name = device_name(row["hardware"])
        except UsageError:
            continue
        entry = catalog().devices[name]
        if entry.link is None or entry.network is None or row["source"] != "ultrascale":
            continue
        per_host = int(float(row["devices_per_node"]))
        where = machine(
            device_of(catalog(), entry), link=entry.link.value, network=entry.network.value / per_host, domain=per_host,
            num_devices=size, latency=EFA_LATENCY,
        )  # fmt: skip
        bytes_ = float(row["message_mib"]) * MIB
        passes = 2 if kind == "all_reduce" else 1
        seconds = passes * bytes_ * (size - 1) / size / (float(row["busbw_GBps"]) * 1e9)

        def predict(fitted: Calibration, where: Machine = where, kind: str = kind, bytes_: float = bytes_) -> float:
            times = Collectives(where, fitted.network)
            call = times.all_reduce if kind == "all_reduce" else times.gather
            return call(where.num_devices, 1, bytes_)

        yield where.device, size, seconds, predict


def _alone(name: str) -> Machine:
    return machine(
        device_of(catalog(), catalog().devices[name]), link=0.0, network=0.0, latency=0.0, domain=1, num_devices=1
    )
