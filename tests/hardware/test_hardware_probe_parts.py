"""What the probe is made of: timing, exactness, combining, lines through measured points; no time is asserted."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.hardware import CollectiveRate, MatrixRate, OperationRate
from meshwright.hardware.probe import links, main, slowest
from meshwright.hardware.probe_collectives import LARGE, SMALL, fitted_rate
from meshwright.hardware.probe_images import image_cases
from meshwright.hardware.probe_layers import layer_cases
from meshwright.hardware.probe_matrices import MatrixCase, cases_of, is_exact, matrix_rates
from meshwright.hardware.probe_operations import FLOAT, WIDTH, operation_cases
from meshwright.hardware.probe_processor import ProcessorRates, combined, thread_counts
from meshwright.hardware.probe_staged import LARGE as LARGE_STAGED
from meshwright.hardware.probe_staged import SMALL as SMALL_STAGED
from meshwright.hardware.probe_timer import FEWEST_SAMPLES, MOST_SAMPLES, Timer
from meshwright.hardware.probe_training import allocation_rate, optimizer_rates, overhead_rates, tiny_step

CPU = torch.device("cpu")
QUICK = Timer(budget=0.0)


def counted(calls: list[str], name: str) -> Callable[[], None]:
    """Work that leaves its name."""
    return lambda: calls.append(name)


def test_a_timer_meets_the_others_once_between_warming_up_and_measuring() -> None:
    calls: list[str] = []
    timer = Timer(budget=0.0, together=counted(calls, "together"), finished=counted(calls, "finished"))
    assert timer(counted(calls, "work")) >= 0.0
    assert calls[:3] == ["work", "finished", "together"]
    assert calls.count("together") == 1
    assert calls.count("work") > 1


def test_a_sample_is_the_mean_of_its_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock shows 0 s before and 6 s after three calls: 2 s each."""
    clock = iter((0.0, 6.0))
    monkeypatch.setattr("meshwright.hardware.probe_timer.perf_counter", lambda: next(clock))
    assert Timer(budget=1.0).sample(lambda: None, 3) == 2.0


def test_a_timer_takes_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that advances a clock by 1, 1, 9, 1 s and more: the 9 s are a neighbour's, the median does not see them."""
    now = [0.0]
    durations = iter([1.0, 1.0, 9.0, *[1.0] * 100])
    monkeypatch.setattr("meshwright.hardware.probe_timer.perf_counter", lambda: now[0])
    assert Timer(budget=10.5)(lambda: now.__setitem__(0, now[0] + next(durations))) == 1.0


def test_a_timer_stops_at_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    calls: list[str] = []

    def work() -> None:
        calls.append("work")
        now[0] += 1.0

    monkeypatch.setattr("meshwright.hardware.probe_timer.perf_counter", lambda: now[0])
    Timer(budget=1e9)(work)
    assert len(calls) == 1 + MOST_SAMPLES
    calls.clear()
    Timer(budget=1.0)(work)
    assert len(calls) == 1 + FEWEST_SAMPLES
    calls.clear()
    Timer(budget=0.1)(work)
    assert len(calls) == 2


def test_an_honest_product_is_exact_and_a_shortened_one_is_not() -> None:
    torch.manual_seed(0)
    left, right = torch.randn(256, 256), torch.randn(256, 256)
    assert is_exact(left @ right, left, right)
    rounded = left.bfloat16().float() @ right.bfloat16().float()
    assert not is_exact(rounded, left, right)
    assert is_exact((left.bfloat16() @ right.bfloat16()), left.bfloat16(), right.bfloat16())


def test_matrix_rates_of_both_libraries_say_what_they_measured() -> None:
    cases = [
        MatrixCase(dtype=torch.float32, library="default", size=64),
        MatrixCase(dtype=torch.bfloat16, library="default", size=64),
    ]
    rates = matrix_rates(QUICK, cases, device=CPU, threads=1, processes=3, most=1.0)
    assert [(rate.dtype, rate.library, rate.size) for rate in rates] == [
        ("float32", "default", 64), ("bfloat16", "default", 64),
    ]  # fmt: skip
    assert all(rate.exact and rate.rate > 0 and rate.processes == 3 for rate in rates)
    assert cases_of(rates) == cases


def test_sizes_that_would_take_too_long_are_left_out() -> None:
    cases = [MatrixCase(dtype=torch.float32, library="default", size=size) for size in (8, 512)]
    rates = matrix_rates(QUICK, cases, device=CPU, threads=1, processes=1, most=0.0)
    assert [rate.size for rate in rates] == [8]


def test_a_data_type_without_a_kernel_has_no_rate() -> None:
    case = MatrixCase(dtype=torch.float8_e8m0fnu, library="default", size=16)
    assert matrix_rates(QUICK, [case], device=CPU, threads=1, processes=1, most=1.0) == []


def test_operations_touch_the_bytes_they_say() -> None:
    rows = 32
    block = torch.arange(3.0 * rows * WIDTH).view(-1, WIDTH)
    cases = {(case.kind, case.variant): case for case in operation_cases(rows * WIDTH * FLOAT, CPU, block=block)}
    tensor = rows * WIDTH * FLOAT
    assert cases["pointwise", "default"].touched == 3 * tensor
    assert cases["reduction", "default"].work_bytes == tensor
    assert cases["random", "default"].work_bytes == tensor
    assert cases["copy", "strided"].run().is_contiguous()
    assert cases["indexing", "default"].run().nbytes == tensor
    assert cases["indexing", "scatter"].touched == 3 * tensor
    assert cases["reduction", "default"].run().shape == (rows,)


def test_every_call_reads_another_part_until_all_were_read() -> None:
    """Three parts of two rows: the fourth call reads the first part again."""
    block = torch.arange(6.0).view(-1, 1).expand(6, WIDTH)
    case = next(case for case in operation_cases(2 * WIDTH * FLOAT, CPU, block=block) if case.kind == "copy")
    assert [case.run()[0, 0].item() for _ in range(4)] == [0.0, 2.0, 4.0, 0.0]


def test_images_touch_the_bytes_they_say() -> None:
    """4 MiB in; batch normalization writes as much, its backward reads two and writes one; pooling a quarter of it."""
    size = 64 * 64 * 16 * 16 * 4
    touched = {(case.kind, case.variant): case.touched for case in image_cases(CPU)}
    assert touched["batch_normalization", "default"] == 2 * size
    assert touched["batch_normalization", "backward_channels_last"] == 3 * size
    assert touched["pooling", "channels_last"] == size + size // 4 * 3


def test_layers_count_forward_and_backward() -> None:
    """By hand for the smallest of each kind.

    Convolution, 64 images of 16 channels and 16 × 16: 2 · (64·16·16·16) · (16·9) forward, three times that in all.
    Attention, 16 × 4 heads of 64 × 32: 7 products of 2 · 16·4·64²·32. LSTM, 32 × 32 steps of 64 units: 3 · 8 · 2 ·
    (32·32) · 64².
    """
    smallest = {case.kind: case for case in reversed(list(layer_cases(CPU)))}
    assert smallest["convolution"].flops == 3 * 2 * 262144 * 144
    assert smallest["attention"].flops == 7 * 2 * 16 * 4 * 4096 * 32
    assert smallest["recurrent"].flops == 3 * 8 * 2 * 1024 * 4096


def test_channels_last_convolutions_stay_so() -> None:
    cases = {case.variant: case for case in layer_cases(CPU) if case.kind == "convolution"}
    assert cases["channels_last"].forward().is_contiguous(memory_format=torch.channels_last)
    assert cases["default"].forward().is_contiguous()


def test_overheads_optimizers_and_allocation_have_rows() -> None:
    setting = {"threads": 1, "processes": 1}
    overheads = overhead_rates(QUICK, device=CPU, **setting)
    assert [rate.variant for rate in overheads] == ["default", "forward", "backward"]
    assert all(rate.overhead >= 0 and rate.bandwidth == 0 for rate in overheads)
    optimizers = optimizer_rates(QUICK, device=CPU, **setting)
    assert [rate.kind for rate in optimizers] == ["optimizer", "optimizer_fused"]
    assert all(rate.bandwidth > 0 and rate.overhead > 0 for rate in optimizers)
    assert allocation_rate(QUICK, **setting).bandwidth > 0
    assert tiny_step() > 0


@settings(deadline=None)
@given(st.integers(1, 512))
def test_thread_counts_go_from_one_to_all(cores: int) -> None:
    counts = thread_counts(cores)
    assert counts[-1] == cores
    assert counts == sorted(set(counts))
    assert cores == 1 or counts[0] == 1
    assert len(counts) <= 6


def test_thread_counts_by_hand() -> None:
    assert thread_counts(1) == [1]
    assert thread_counts(2) == [1, 2]
    assert thread_counts(6) == [1, 2, 4, 6]
    assert thread_counts(96) == [1, 4, 16, 64, 96]


def rates(rate: float, overhead: float, *, exact: bool = True) -> ProcessorRates:
    """One row of each kind."""
    return ProcessorRates(
        matrices=(MatrixRate(dtype="float32", size=64, rate=rate, exact=exact),),
        operations=(OperationRate(kind="copy", bandwidth=rate, overhead=overhead),),
    )


def test_of_two_rounds_the_better_is_kept() -> None:
    best = combined([rates(1.0, 0.2), rates(2.0, 0.1)], rate=max, overhead=min)
    assert best == rates(2.0, 0.1)


def test_a_product_that_was_wrong_once_is_not_exact() -> None:
    assert not combined([rates(1.0, 0.1), rates(2.0, 0.1, exact=False)], rate=max, overhead=min).matrices[0].exact


@settings(deadline=None)
@given(st.floats(1e-7, 1e-2), st.floats(1e6, 1e12))
def test_a_line_gives_back_its_latency_and_bandwidth(latency: float, bandwidth: float) -> None:
    found = fitted_rate(latency + SMALL / bandwidth, latency + LARGE / bandwidth)
    assert found[0] == pytest.approx(latency, rel=1e-3, abs=SMALL / bandwidth * 1e-3)
    assert found[1] == pytest.approx(bandwidth, rel=1e-2)


def test_a_line_through_staged_messages_by_hand() -> None:
    """20 µs and 8 GB/s; and noise that makes the large message the quicker one leaves no latency."""
    sizes = (SMALL_STAGED, LARGE_STAGED)
    latency, bandwidth = fitted_rate(20e-6 + SMALL_STAGED / 8e9, 20e-6 + LARGE_STAGED / 8e9, sizes=sizes)
    assert latency == pytest.approx(20e-6)
    assert bandwidth == pytest.approx(8e9)
    assert fitted_rate(1e-3, 0.5e-3, sizes=sizes) == (0.0, LARGE_STAGED / 0.5e-3)


def test_noise_that_makes_large_messages_faster_leaves_no_latency() -> None:
    assert fitted_rate(2.0, 1.0) == (0.0, LARGE)


def collective(latency: float, bandwidth: float, name: str = "all_reduce") -> CollectiveRate:
    return CollectiveRate(collective=name, transport="gloo", group=2, latency=latency, bandwidth=bandwidth)


def test_the_slowest_member_counts() -> None:
    quick, slow = collective(1e-4, 1e9), collective(1e-2, 1e9)
    assert slowest([[quick], [slow]]) == [slow]


def test_a_link_shows_its_fastest_all_reduce() -> None:
    found = [collective(1e-4, 1e9), collective(1e-5, 3e9), collective(1e-6, 9e9, "broadcast")]
    (link,) = links("process", found)
    assert (link.latency, link.bandwidth, link.collectives) == (1e-5, 3e9, tuple(found))
    assert links("process", []) == ()


def test_the_probe_says_how_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().err == "usage: python -m meshwright.hardware.probe OUT.toml\n"
