"""Time of a micro-batch's operations on one worker."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import planning_builders as build
from meshwright.cost import Kernels, Precision
from meshwright.cost._compute import compute_time, operation_times, optimizer_time
from meshwright.cost._rates import Rates
from meshwright.cost._workload import Workload
from meshwright.errors import HardwareError
from meshwright.graph import Linear, Operation
from meshwright.hardware import MatrixRate, OperationRate


def _rates(*, threads: int = 1, **choices: float) -> Rates:
    return Rates(build.processor(**choices), threads=threads, processes=1)


def test_matrix_products_take_their_work_over_the_rate() -> None:
    """Two layers, 100 examples: forward 2 · 2 MFLOP · 100 = 0.4 GFLOP, 4 ms at 100 GFLOP/s; backward twice that."""
    time = compute_time(
        Workload(build.multilayer()),
        _rates(),
        kernels=Kernels(allocator="retained"),
        precision=Precision(),
        examples=100,
    )
    assert time.forward == pytest.approx(4e-3)
    assert time.backward == pytest.approx(8e-3)
    assert time.recompute == 0


def test_operations_far_from_their_kind_have_rates_of_their_own() -> None:
    """2 MB at 10 GB/s take 0.2 ms; a GELU by tanh at 2 GB/s 1 ms, or as all others where that was not measured."""
    operation = Operation(
        name="aten.gelu_tanh", kind="transcendental", phase="forward", module="", dtype="float32", flops=Linear(),
        bytes_read=Linear(fixed=1e6), bytes_written=Linear(fixed=1e6),
    )  # fmt: skip
    known = build.processor()
    rates = [OperationRate(kind="transcendental", bandwidth=1e10, overhead=0.0)]
    slow = OperationRate(kind="transcendental", variant="tanh", bandwidth=2e9, overhead=0.0)
    for name, rows, expected in (
        ("aten.gelu_tanh", [*rates, slow], 1e-3),
        ("aten.gelu_tanh", rates, 0.2e-3),
        ("aten.gelu", [*rates, slow], 0.2e-3),
    ):
        device = replace(known, operation_rates=tuple(rows))
        workload = Workload(replace(build.multilayer(), operations=(replace(operation, name=name),)))
        times = operation_times(
            workload, Rates(device, threads=1, processes=1), kernels=Kernels(), precision=Precision(), examples=1
        )  # fmt: skip
        assert times[0] == pytest.approx(expected)


def test_two_threads_use_the_rates_measured_with_two() -> None:
    """180 GFLOP/s instead of 100."""
    time = compute_time(
        Workload(build.multilayer()), _rates(threads=2), kernels=Kernels(allocator="retained"),
        precision=Precision(), examples=100,
    )  # fmt: skip
    assert time.forward == pytest.approx(4e-3 / 1.8)


def test_onednn_halves_the_products() -> None:
    """200 GFLOP/s instead of 100."""
    kernels = Kernels(matrix_library="onednn", allocator="retained")
    time = compute_time(Workload(build.multilayer()), _rates(), kernels=kernels, precision=Precision(), examples=100)
    assert time.forward == pytest.approx(2e-3)


def test_recomputing_the_blocks_runs_their_forward_again() -> None:
    """Both layers are blocks: the forward's 4 ms once more; one of two: half of it."""
    workload = Workload(build.multilayer())
    for blocks, expected in ((("layers.0", "layers.1"), 4e-3), (("layers.0",), 2e-3)):
        time = compute_time(
            workload, _rates(), kernels=Kernels(allocator="retained"), precision=Precision(), examples=100,
            recompute=blocks,
        )  # fmt: skip
        assert time.recompute == pytest.approx(expected)


def _writing(name: str, size: float) -> Workload:
    operation = Operation(
        name=name, kind="pointwise", phase="forward", module="", dtype="float32", flops=Linear(),
        bytes_read=Linear(), bytes_written=Linear(fixed=size),
    )  # fmt: skip
    return Workload(replace(build.multilayer(), operations=(operation,)))


@pytest.mark.parametrize(
    ("name", "size", "allocator", "expected"),
    [
        ("aten.add", 50e6, "default", 5e-3 + 10e-3),
        ("aten.add", 50e6, "retained", 5e-3),
        ("aten.add_", 50e6, "default", 5e-3),
        ("aten.add", 30e6, "default", 3e-3),
    ],
)
def test_only_large_new_tensors_are_paid_for_in_fresh_memory(
    name: str, size: float, allocator: str, expected: float
) -> None:
    """50 MB written at 10 GB/s take 5 ms, and 10 ms more where the system hands out their memory at 5 GB/s; not in
    place, not where memory is retained, not under 32 MiB."""
    kernels = Kernels(allocator=allocator)
    times = operation_times(_writing(name, size), _rates(), kernels=kernels, precision=Precision(), examples=1)
    assert times[0] == pytest.approx(expected)


def test_batch_normalization_and_pooling_have_rates_of_their_own() -> None:
    """50 MB at 2 GB/s in the forward; with channels last at 20 GB/s."""
    rows = tuple(
        OperationRate(kind="batch_normalization", variant=variant, bandwidth=bandwidth, overhead=0.0)
        for variant, bandwidth in (("default", 2e9), ("channels_last", 20e9))
    )
    device = build.processor()
    rates = Rates(replace(device, operation_rates=device.operation_rates + rows), threads=1, processes=1)
    workload = _writing("aten.native_batch_norm", 50e6)
    for layout, expected in (("as_written", 25e-3), ("channels_last", 2.5e-3)):
        kernels = Kernels(allocator="retained", memory_format=layout)
        times = operation_times(workload, rates, kernels=kernels, precision=Precision(), examples=1)
        assert times[0] == pytest.approx(expected)


def test_masks_of_the_faster_source_take_a_fifth() -> None:
    """10 MB of masks at 10 GB/s: 1 ms; a fifth and 15 µs of seeding with the faster source; small ones stay."""
    operation = replace(_writing("aten.bernoulli_", 10e6).graph.operations[0], kind="random")
    workload = Workload(replace(build.multilayer(), operations=(operation,)))
    for source, expected in (("default", 1e-3), ("sfc64", 0.2e-3 + 15e-6)):
        times = operation_times(workload, _rates(), kernels=Kernels(random=source), precision=Precision(), examples=1)
        assert times[0] == pytest.approx(expected)


def test_memory_bound_operations_take_their_bytes_over_the_bandwidth() -> None:
    """A pointwise operation over 1 MB read and 1 MB written at 10 GB/s: 0.2 ms, 5 µs to launch and 5 µs to record."""
    operation = Operation(
        name="aten.add", kind="pointwise", phase="forward", module="", dtype="float32", flops=Linear(),
        bytes_read=Linear(fixed=1e6), bytes_written=Linear(fixed=1e6),
    )  # fmt: skip
    workload = Workload(replace(build.multilayer(), operations=(operation,)))
    times = operation_times(workload, _rates(overhead=5e-6), kernels=Kernels(), precision=Precision(), examples=1)
    assert times[0] == pytest.approx(0.2e-3 + 10e-6)


def test_a_product_of_few_numbers_is_limited_by_memory() -> None:
    """1 MFLOP would take 10 µs at 100 GFLOP/s; its 10 MB take 100 µs to copy at 100 GB/s."""
    operation = replace(
        build.multilayer().operations[0], repeats=1, flops=Linear(fixed=1e6), bytes_read=Linear(fixed=10e6)
    )
    workload = Workload(replace(build.multilayer(), operations=(operation,)))
    times = operation_times(workload, _rates(), kernels=Kernels(), precision=Precision(), examples=1)
    assert times[0] == pytest.approx(100e-6)


def test_rates_between_measured_sizes_lie_between_them() -> None:
    """On logarithmic axes: halfway from (100, 10 GFLOP/s) to (10000, 1000 GFLOP/s) lies (1000, 100 GFLOP/s)."""
    rows = (
        MatrixRate(dtype="float32", size=100, rate=10e9),
        MatrixRate(dtype="float32", size=10000, rate=1000e9),
    )
    rates = Rates(replace(build.processor(), matrix_rates=rows), threads=1, processes=1)
    edges = Workload(build.multilayer()).repeats * 0 + 1000.0
    assert rates.matrix("float32", "default", edges)[0] == pytest.approx(100e9)


def test_rates_measured_beside_other_processes_price_a_worker_that_has_neighbours() -> None:
    rows = tuple(
        OperationRate(kind="copy", processes=count, bandwidth=bandwidth, overhead=0.0)
        for count, bandwidth in ((1, 10e9), (2, 6e9))
    )
    device = replace(build.processor(), operation_rates=rows)
    sizes = Workload(build.multilayer()).repeats
    assert Rates(device, threads=1, processes=2).bandwidth("copy", sizes)[0] == pytest.approx(6e9)
    assert Rates(device, threads=1, processes=1).bandwidth("copy", sizes)[0] == pytest.approx(10e9)


def test_an_unknown_data_type_is_refused_with_the_known_ones() -> None:
    with pytest.raises(HardwareError) as raised:
        _rates().matrix("float8_e5m2", "default", Workload(build.multilayer()).repeats)
    assert str(raised.value) == (
        "round figures has no matrix rate for float8_e5m2\n"
        "  because: its rates come from: made by hand\n"
        "  instead: data types with a rate: float32\n"
        "  next:    meshwright hardware --fresh"
    )


def test_the_update_takes_its_bytes_and_is_shared_out_among_shards() -> None:
    """2 M elements · (12 + 16) B = 56 MB at 10 GB/s: 5.6 ms; among 2 shards half of it."""
    workload = Workload(build.multilayer())
    assert optimizer_time(workload, _rates(), kernels=Kernels(), shards=1) == pytest.approx(5.6e-3)
    assert optimizer_time(workload, _rates(), kernels=Kernels(), shards=2) == pytest.approx(2.8e-3)


@given(examples=st.integers(1, 1000), more=st.integers(1, 1000))
def test_more_examples_never_take_less_time(examples: int, more: int) -> None:
    workload = Workload(build.multilayer())
    few, many = (
        compute_time(workload, _rates(overhead=1e-6), kernels=Kernels(), precision=Precision(), examples=count)
        for count in (examples, examples + more)
    )
    assert few.forward <= many.forward
    assert few.backward <= many.backward


def test_compiling_runs_a_stretch_of_small_operations_as_one_on_an_accelerator() -> None:
    """Two of 20 MB at 2 TB/s, 5 µs to launch: 15 µs each, 15 µs together when compiled."""
    operation = replace(_writing("aten.add", 20e6).graph.operations[0])
    workload = Workload(replace(build.multilayer(), operations=(operation, operation)))
    rates = Rates(build.accelerators().hosts[0].device, threads=1, processes=1)
    for compiled, expected in ((False, 30e-6), (True, 15e-6)):
        kernels = Kernels(compiled=compiled)
        times = operation_times(workload, rates, kernels=kernels, precision=Precision(), examples=1)
        assert times.sum() == pytest.approx(expected)


def test_small_products_stay_with_the_default_library() -> None:
    """1 example: 10⁶ multiplications, under 2²¹, and an edge of 1; 20 µs at 100 GFLOP/s, not 10 at 200, and
    4 µs to find that out."""
    workload = Workload(build.multilayer())
    kernels = Kernels(matrix_library="onednn", allocator="retained")
    times = operation_times(workload, _rates(), kernels=kernels, precision=Precision(), examples=1)
    assert times[0] == pytest.approx(24e-6)
