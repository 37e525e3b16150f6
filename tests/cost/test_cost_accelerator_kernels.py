"""Kernel times on accelerators, against values computed by hand."""

from dataclasses import replace
from math import hypot

import pytest
from accelerator_builders import CALIBRATION, MACHINE
from hypothesis import given
from hypothesis import strategies as st

from meshwright.cost.accelerator import kernels


def test_a_product_is_its_work_and_its_bytes() -> None:
    """4096³: 2·4096³ FLOP at 1e14 are 1.374 ms; 3·4096²·2 B at 1e12 are 0.1007 ms; the root of their squares."""
    assert kernels(MACHINE, "half", CALIBRATION).matrix(4096, 4096, 4096) == pytest.approx(
        hypot(2 * 4096**3 / 1e14, 6 * 4096**2 / 1e12)
    )


def test_a_short_inner_dim_and_few_outputs_lose() -> None:
    """With k0 = 128, an inner dim of 128 takes twice its work's time; outputs of one fill take twice again."""
    shares = replace(CALIBRATION.kernels, inner=128.0)
    fitted = replace(CALIBRATION, kernels=shares)
    plain = kernels(MACHINE, "half", CALIBRATION)
    assert kernels(MACHINE, "half", fitted).matrix(65536, 128, 65536) == pytest.approx(
        hypot(2 * 2 * 65536 * 128 * 65536 / 1e14, 2 * (2 * 65536 * 128 + 65536**2) / 1e12)
    )
    filled = replace(CALIBRATION, kernels=replace(CALIBRATION.kernels, fill=1.0))
    outputs = 132 * 128 * 256 / 10
    slow = kernels(MACHINE, "half", filled).matrix(outputs / 512, 1e6, 512)
    work = 2 * outputs * 1e6 / 1e14
    assert slow > 1.9 * work > 0.9 * plain.matrix(outputs / 512, 1e6, 512) * 0.9


def test_matrix_types_have_their_rates() -> None:
    """8 bits run at 2e14, with a scale per row at half of it, 32 bits at 5e13."""
    times = {kind: kernels(MACHINE, kind, CALIBRATION).rate for kind in ("half", "float8", "float8_rows", "single")}
    assert times == {"half": 1e14, "float8": 2e14, "float8_rows": 1e14, "single": 5e13}


def test_devices_without_tf32_reach_another_share_and_lose_less_on_short_inner_dims() -> None:
    """The 32-bit rate is no faster than without matrix units: half of it here; k0 shrinks with the rate, 128 to 32."""
    old = replace(MACHINE, plain=MACHINE.single)
    assert kernels(old, "single", CALIBRATION).rate == 2.5e13
    fitted = replace(CALIBRATION, kernels=replace(CALIBRATION.kernels, inner=128.0))
    shape = (2**20, 32, 2**20)
    lost = kernels(old, "single", fitted).matrix(*shape) ** 2 - kernels(old, "single", CALIBRATION).matrix(*shape) ** 2
    assert lost == pytest.approx((2**2 - 1) * (2 * 2**45 / 2.5e13) ** 2)


def test_plain_products_are_never_faster_than_the_device() -> None:
    """A share that was fitted above 1 does not take products in 32 bits above the maker's 2e13."""
    fitted = replace(CALIBRATION, kernels=replace(CALIBRATION.kernels, plain=1.2))
    assert kernels(replace(MACHINE, plain=2e13), "plain", fitted).rate == 2e13


def test_devices_of_which_no_plain_rate_is_known_multiply_in_their_one_way() -> None:
    assert kernels(MACHINE, "plain", CALIBRATION).rate == kernels(MACHINE, "single", CALIBRATION).rate


def test_scores_in_32_bits_take_the_passes_of_unfused_kernels() -> None:
    """Two products write them once; then 1 pass of 2 B, or 2 of 4 B: 3 times and 8 times what 2 B take."""
    half, single = (kernels(MACHINE, kind, CALIBRATION).scored_attention(64, 1024, 1)[0] for kind in ("half", "single"))
    once = 64 * 1024**2 * 2 / 1e12
    assert half == pytest.approx(3 * once, rel=0.01)
    assert single == pytest.approx(8 * once, rel=0.01)


def test_a_device_that_is_named_sustains_its_share() -> None:
    """A device with share 0.5 has half the rate; its memory is as fast."""
    fitted = replace(CALIBRATION, devices={"round": 0.5})
    assert kernels(MACHINE, "half", fitted).rate == 5e13
    assert kernels(MACHINE, "half", fitted).moving(1e12) == 1.0


def test_fused_attention_computes_half_the_scores() -> None:
    """2·tokens·keys·width FLOP, heads of 16 at half the rate; the backward 2.5 times as much at 0.85 of it."""
    forward, backward = kernels(MACHINE, "half", CALIBRATION).fused_attention(1000, 1000, 64, 16)
    assert forward == pytest.approx(2 * 1000 * 1000 * 64 / 1e14 * 2)
    assert backward == pytest.approx(forward * 2.5 / 0.85)


@given(st.integers(64, 8192), st.integers(64, 8192), st.integers(64, 8192))
def test_more_work_never_takes_less(rows: int, inner: int, columns: int) -> None:
    """Doubling a dim never shortens a product."""
    times = kernels(MACHINE, "half", CALIBRATION)
    one = times.matrix(rows, inner, columns)
    assert one <= min(
        times.matrix(2 * rows, inner, columns), times.matrix(rows, 2 * inner, columns),
        times.matrix(rows, inner, 2 * columns),
    )  # fmt: skip
