"""Attention over a split sequence on a processor, by hand."""

from dataclasses import replace

import numpy as np
import pytest

import planning_builders as build
from meshwright.cost._rates import Rates
from meshwright.cost._workload import Workload
from meshwright.cost.hybrid._ring import ring_times
from meshwright.graph import Linear, MatrixShape, Operation
from meshwright.hardware import MatrixRate, OperationRate


@pytest.mark.parametrize(("phase", "expected"), [("forward", 1.0 + 10 + 8 + 7), ("backward", 1.0 + 11 + 4 + 13)])
def test_blocks_are_products_and_passes(phase: str, expected: float) -> None:
    """1 GFLOP at 1 TFLOP/s: 1 ms. 1 head of 500 × 500 scores is 1 MB: at 1 GB/s 1 ms a pass, exponentials 2 ms; outputs
    of 500 × 250 are 0.5 MB, merged for each of 2 workers: 1 ms a pass."""
    shape = MatrixShape(
        batch=Linear(per_example=1.0), rows=Linear(fixed=500), inner=Linear(fixed=250), columns=Linear(fixed=500)
    )
    operation = Operation(
        name="aten.attention", kind="attention", phase=phase, module="", dtype="float32",  # type: ignore[arg-type]
        flops=Linear(per_example=1e9), bytes_read=Linear(), bytes_written=Linear(), matrix=shape,
    )  # fmt: skip
    other = replace(operation, kind="copy", matrix=None)
    device = replace(
        build.processor(),
        matrix_rates=(MatrixRate(dtype="float32", size=64, rate=1e12),),
        operation_rates=(
            OperationRate(kind="pointwise", bandwidth=1e9, overhead=0.0),
            OperationRate(kind="transcendental", bandwidth=0.5e9, overhead=0.0),
        ),
    )
    workload = Workload(replace(build.multilayer(), operations=(operation, other)))
    rates = Rates(device, threads=1, processes=1)
    times = ring_times(workload, rates, np.array([5e-3, 7e-3]), examples=1, degree=2)
    assert times == pytest.approx([expected * 1e-3, 7e-3])
