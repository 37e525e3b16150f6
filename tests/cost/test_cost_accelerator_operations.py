"""Operations of a captured graph on an accelerator with round numbers, by hand."""

from dataclasses import replace

import numpy as np
import pytest
from accelerator_builders import CALIBRATION, HABITS, MACHINE

from meshwright.cost import Kernels, Precision
from meshwright.cost._workload import Workload
from meshwright.cost.accelerator import Machine, accelerated_times
from meshwright.graph import Graph, Linear, MatrixShape, Operation, OptimizerState, Parameter


def _operation(kind: str, module: str, **more: object) -> Operation:
    given = {"flops": Linear(), "bytes_read": Linear(), "bytes_written": Linear(), "phase": "forward"} | more
    return Operation(name=f"aten.{kind}", kind=kind, module=module, dtype="bfloat16", **given)  # type: ignore[arg-type]


def _shape(rows: Linear, inner: int, columns: int, batch: Linear = Linear(fixed=1.0)) -> MatrixShape:  # noqa: B008
    return MatrixShape(batch=batch, rows=rows, inner=Linear(fixed=inner), columns=Linear(fixed=columns))


def _workload(*operations: Operation, traits: tuple[str, ...] = ()) -> Workload:
    return Workload(
        Graph(
            model="Hand", batch_size=4, operations=operations, activations=(), transient=Linear(), traits=traits,
            parameters=(Parameter(paths=("norm.weight",), shape=(8,), dtype="bfloat16"),), batch_bytes=Linear(),
            optimizer=OptimizerState(name="SGD", bytes_per_element=0, fused=False, operations=1),
        )
    )  # fmt: skip


def _times(
    workload: Workload, compute: str = "as_written", *, compiled: bool = False, machine: Machine = MACHINE
) -> np.ndarray:
    return accelerated_times(
        workload, machine, CALIBRATION, HABITS,
        kernels=Kernels(compiled=compiled), precision=Precision(compute=compute), examples=2.0,
    )  # fmt: skip


def test_a_product_takes_its_arithmetic() -> None:
    """2 × 4096³ at 100 TFLOP/s; its 100 MB at 1 TB/s run beside it: the root of both squares."""
    rows = Linear(per_example=2048.0)
    work = Linear(per_example=2 * 2048.0 * 4096 * 4096)
    (time,) = _times(_workload(_operation("matrix", "a", flops=work, matrix=_shape(rows, 4096, 4096))))
    assert time == pytest.approx(np.hypot(2 * 4096**3 / 1e14, 2 * 3 * 4096**2 / 1e12))


@pytest.mark.parametrize(("traits", "rate"), [((), 1e13), (("tf32",), 5e13)])
def test_products_in_32_bits_take_matrix_units_only_where_the_script_says_so(
    traits: tuple[str, ...], rate: float
) -> None:
    """2 × 4096³ at the plain rate of 2e13, of which half is reached; at TF32's 5e13 where it is allowed."""
    work = Linear(fixed=2 * 4096.0**3)
    product = replace(_operation("matrix", "a", flops=work, matrix=_shape(Linear(fixed=4096.0), 4096, 4096)),
                      dtype="float32")  # fmt: skip
    machine = replace(MACHINE, plain=2e13)
    assert _times(_workload(product, traits=traits), machine=machine) == pytest.approx(
        [np.hypot(2 * 4096**3 / rate, 4 * 3 * 4096**2 / 1e12)]
    )


def test_convolutions_in_32_bits_take_matrix_units_unasked() -> None:
    """cuDNN may use TF32 unless a script forbids it: 2 × 1024³ at 5e13."""
    work = Linear(fixed=2 * 1024.0**3)
    convolution = replace(_operation("convolution", "a", flops=work), dtype="float32")
    assert _times(_workload(convolution), machine=replace(MACHINE, plain=2e13)) == pytest.approx(
        [np.hypot(2 * 1024**3 / 5e13, 4 * 3 * 1024**2 / 1e12)]
    )


def test_attention_in_32_bits_runs_at_the_rate_of_plain_products() -> None:
    """Kernels that keep no scores have matrix units for 16 bits only: a tenth of the rate that those reach."""
    shape = _shape(Linear(fixed=1024), 64, 1024, Linear(per_example=4))
    attention = _operation("attention", "a", flops=Linear(per_example=4.0 * 4 * 1024 * 1024 * 64), matrix=shape)
    machine = replace(MACHINE, plain=2e13)
    half, single = (
        _times(_workload(replace(attention, dtype=dtype)), machine=machine) for dtype in ("bfloat16", "float32")
    )
    assert single == pytest.approx(10 * half)


def test_products_of_a_batch_are_counted() -> None:
    """8 products of 512 cubed, counted by their FLOP: as long as one with 8 times the rows, were it not for reading."""
    work = Linear(fixed=8 * 2 * 512.0**3)
    many = _operation("matrix", "a", flops=work, matrix=_shape(Linear(fixed=512.0), 512, 512, Linear(fixed=8.0)))
    (time,) = _times(_workload(many))
    assert time == pytest.approx(np.hypot(8 * 2 * 512**3 / 1e14, 8 * 2 * 3 * 512**2 / 1e12))


@pytest.mark.parametrize(("phase", "products", "factor"), [("forward", 2, 1.0), ("backward", 5, 2.5 / 0.85)])
def test_causal_attention_is_half(phase: str, products: int, factor: float) -> None:
    """4 heads of 64 with 1024 positions, 2 examples: half of the forward's FLOP at 64 / 80 of the rate, or all."""
    heads, length, width = 4, 1024, 64
    work = Linear(per_example=products * 2.0 * heads * length * length * width)
    shape = _shape(Linear(fixed=length), width, length, Linear(per_example=heads))
    attention = _operation("attention", "a", phase=phase, flops=work, matrix=shape)
    forward = 2 * 2 * heads * length * length * width / (1e14 * 64 / 80)
    assert _times(_workload(attention, traits=("causal_attention",))) == pytest.approx([factor * forward])
    assert _times(_workload(attention)) == pytest.approx([2 * factor * forward])


def test_a_norm_is_one_kernel() -> None:
    """Four operations of a module with a weight move what the largest moves, in one launch; apart they would add up."""
    parts = [_operation("pointwise", "norm", bytes_read=Linear(fixed=size)) for size in (1e9, 4e9, 2e9, 4e9)]
    workload = _workload(*parts)
    assert _times(workload).sum() == pytest.approx(4e-3)
    assert workload.launches.sum() == pytest.approx(1.0)
    apart = _workload(*(replace(part, module="other") for part in parts))
    assert _times(apart).sum() == pytest.approx(11e-3)
    assert apart.launches.sum() == 4.0
    assert _times(apart, compiled=True).sum() == pytest.approx(5.5e-3)


def test_views_are_free_and_casts_are_not() -> None:
    """A product lowered to 8 bits runs at twice the rate, and its 2 bytes an element are read and 1 written."""
    view = _operation("view", "a", bytes_read=Linear(fixed=1e9))
    assert _times(_workload(view)).sum() == 0.0
    rows, work = Linear(fixed=8192.0), Linear(fixed=2 * 8192.0**3)
    product = _operation(
        "matrix", "a", flops=work, bytes_read=Linear(fixed=4.0 * 8192**2), matrix=_shape(rows, 8192, 8192)
    )
    plain, lowered = (_times(_workload(product), compute).sum() for compute in ("as_written", "float8_e4m3fn"))
    cast = 4.0 * 8192**2 * 1.5 / 1e12
    assert lowered - cast < 0.52 * plain
    assert lowered > 2 * 8192**3 / 2e14 + cast
