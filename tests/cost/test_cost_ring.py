"""Attention over a split sequence on a processor, by hand."""

from dataclasses import replace

import numpy as np
import pytest

import planning_builders as build
from meshwright.cost._rates import Rates
from meshwright.cost._workload import Workload
from meshwright.cost.hybrid._ring import ring_times
from meshwright.graph import Linear, MatrixShape, Operation
from meshwright.hardware import OperationRate


@pytest.mark.parametrize(
    ("phase", "traits", "expected"),
    [
        ("forward", (), 6 + 4 + 7 * 2),
        ("backward", (), 6 + 4 + 9 * 3),
        ("forward", ("causal_attention",), 6 * 2 / 3 + 4 + 7 * 2 + 16 * 4),
    ],
)
def test_blocks_are_merged_and_their_gradients_added(phase: str, traits: tuple[str, ...], expected: float) -> None:
    """Outputs of 500 x 500 floats are 1 MB: at 1 GB/s 1 ms a pass, 4 ms with strides; three workers, a kernel of 6."""
    shape = MatrixShape(
        batch=Linear(per_example=1.0), rows=Linear(fixed=500), inner=Linear(fixed=500), columns=Linear(fixed=500)
    )
    operation = Operation(
        name="aten.attention", kind="attention", phase=phase, module="", dtype="float32",  # type: ignore[arg-type]
        flops=Linear(per_example=1e9), bytes_read=Linear(), bytes_written=Linear(), matrix=shape,
    )  # fmt: skip
    other = replace(operation, kind="copy", matrix=None)
    device = replace(
        build.processor(),
        operation_rates=(
            OperationRate(kind="pointwise", bandwidth=1e9, overhead=0.0),
            OperationRate(kind="copy", variant="strided", bandwidth=0.25e9, overhead=0.0),
        ),
    )
    workload = Workload(replace(build.multilayer(), operations=(operation, other), traits=traits))
    rates = Rates(device, threads=1, processes=1)
    times = ring_times(workload, rates, np.array([6e-3, 7e-3]), examples=1, degree=3)
    assert times == pytest.approx([expected * 1e-3, 7e-3])
