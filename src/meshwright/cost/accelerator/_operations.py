r"""How long the operations of a captured graph take on an accelerator: those that a transformer is made of.

    matrix       a product of its shape
    attention    fused, causal: a forward, or a backward that computes the scores again
    convolution  a product of as many FLOP and a cube's sides
    view         nothing
    all others   their bytes at the memory's bandwidth, times what a framework's kernels pass over it

The capture sees norms as a dozen operations that torch runs as one kernel on accelerators: the largest of them counts,
and one launch.
"""

import numpy as np

from meshwright.cost._strategy import Kernels as KernelChoice
from meshwright.cost._strategy import Precision
from meshwright.cost._workload import ITEM_SIZES, Column, Index, Workload
from meshwright.cost.accelerator._calibration import Calibration, Habits
from meshwright.cost.accelerator._kernels import Kernels, kernels
from meshwright.cost.accelerator._machine import Machine
from meshwright.cost.accelerator._setup import MatrixType

MATRIX_TYPES: dict[str, MatrixType] = {
    "float8_e4m3fn": "float8", "float8_e5m2": "float8", "bfloat16": "half", "float16": "half",
}  # fmt: skip
_FLOP_KINDS = ("convolution", "recurrent")
_LOWERED = ("matrix", "attention", *_FLOP_KINDS)


def accelerated_times(
    workload: Workload,
    machine: Machine,
    fitted: Calibration,
    habits: Habits,
    *,
    kernels: KernelChoice,
    precision: Precision,
    examples: float,
) -> Column:
    """Time of every operation of the graph (s; one instance of a repeated one)."""
    sizes = workload.bytes_read.at(examples) + workload.bytes_written.at(examples)
    passes = fitted.traffic.captured * habits.traffic * (fitted.traffic.compiled if kernels.compiled else 1.0)
    times = np.zeros(len(sizes))
    made: dict[tuple[str, MatrixType], Kernels] = {}
    for (kind, dtype), rows in workload.groups.items():
        lowered = kind in _LOWERED and precision.compute != "as_written"
        used = precision.compute if lowered else dtype
        # Convolutions take TF32 where it is, for torch lets cuDNN do so; products only where the script does.
        whole: MatrixType = "single" if "tf32" in workload.graph.traits or kind in _FLOP_KINDS else "plain"
        where = made[used, whole] = made.get((used, whole)) or _kernels(machine, used, fitted, whole)
        if kind == "matrix":
            times[rows] = _products(workload, rows, where, examples)
        elif kind == "attention":
            times[rows] = _attention(workload, rows, where, examples)
        elif kind in _FLOP_KINDS:
            edges = np.cbrt(np.maximum(1.0, workload.flops.at(examples)[rows] / 2))
            times[rows] = where.matrix(edges, edges, edges)
        elif kind != "view":
            times[rows] = where.moving(sizes[rows]) * passes
        if lowered and dtype != precision.compute:
            times[rows] += where.moving(_cast(workload, rows, dtype, precision.compute, examples)) * passes
    return _norms_at_once(workload, times)


def _kernels(machine: Machine, dtype: str, fitted: Calibration, whole: MatrixType) -> Kernels:
    return kernels(machine, MATRIX_TYPES.get(dtype, whole), fitted)


def _products(workload: Workload, rows: Index, where: Kernels, examples: float) -> Column:
    height, inner, columns = (side.at(examples)[rows] for side in workload.edges)
    batch = workload.flops.at(examples)[rows] / (2 * height * inner * columns)
    return where.matrix(height, inner, columns, batch=batch)


def _attention(workload: Workload, rows: Index, where: Kernels, examples: float) -> Column:
    """Half of all keys are in a query's future, where attention is causal; elsewhere a query meets all."""
    _, head, columns = (side.at(examples)[rows] for side in workload.edges)
    flops = workload.flops.at(examples)[rows]
    ahead = workload.in_forward[rows]
    # A forward has two products of a query's rows by all keys, a backward five.
    tokens = flops / np.where(ahead, 4.0, 10.0) / (columns * head)
    tokens *= 1.0 if "causal_attention" in workload.graph.traits else 2.0
    forward, backward = where.fused_attention(tokens, columns, head, head)
    return np.where(ahead, forward, backward)


def _cast(workload: Workload, rows: Index, dtype: str, used: str, examples: float) -> Column:
    """Autocast reads each input and writes it in the lower precision."""
    return workload.bytes_read.at(examples)[rows] * (1 + ITEM_SIZES[used] / ITEM_SIZES.get(dtype, 4))


def _norms_at_once(workload: Workload, times: Column) -> Column:
    for rows in workload.norms:
        times[rows] = times[rows].max() / len(rows)
    return times
