"""Predictions beside measurements, and the correction that follows."""

from dataclasses import replace
from math import log, sqrt
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.errors import DocumentError
from meshwright.hardware import Correction, Outcome, correction, outcome_kind, record_outcome, recorded_outcomes
from meshwright.hardware._cache import outcomes_path
from meshwright.hardware._learned import RECENT, _center

MACHINE = "a machine"


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MESHWRIGHT_CACHE", str(tmp_path))


def outcome(
    ratio: float, *, kind: str = "GPT", basis: str = "model", applied: float = 1.0, load: float = 0.0
) -> Outcome:
    return Outcome(
        kind=kind,
        basis=basis,
        predicted_step=0.1,
        measured_step=0.1 * ratio,
        predicted_memory=1000,
        measured_memory=1100,
        applied=Correction(time=applied),
        load=load,
        planned_load=0.0,
    )


def test_without_outcomes_nothing_is_corrected() -> None:
    assert correction(MACHINE, "GPT") == Correction()


def test_one_run_moves_the_next_prediction_half_its_way() -> None:
    """Between ln 2 and ln 1 of the uncorrected one: sqrt(2); and memory between ln 1.1 and 0: sqrt(1.1)."""
    record_outcome(MACHINE, outcome(2.0))
    found = correction(MACHINE, "GPT")
    assert (found.time, found.memory) == (pytest.approx(2**0.5), pytest.approx(1.1**0.5))
    assert found.spread == pytest.approx(sqrt((0.15**2 + (log(2) / 2) ** 2) / 2))


def test_one_odd_run_among_many_moves_nothing() -> None:
    """With the uncorrected 1 these are 1, 1.2, 1.2, 1.2, 3: the middle one is 1.2."""
    for ratio in (1.2, 3.0, 1.2, 1.2):
        record_outcome(MACHINE, outcome(ratio))
    assert correction(MACHINE, "GPT").time == pytest.approx(1.2)


def test_runs_under_another_load_than_now_are_set_aside() -> None:
    """Three loaded runs of 3 ×, two idle ones of 1.2 ×: idle, the middle of (1, 1.2, 1.2); loaded, of (1, 3, 3, 3)."""
    for ratio, load in ((3.0, 0.6), (3.0, 0.6), (1.2, 0.0), (1.2, 0.0), (3.0, 0.6)):
        record_outcome(MACHINE, outcome(ratio, load=load))
    assert correction(MACHINE, "GPT", load=0.0).time == pytest.approx(1.2)
    assert correction(MACHINE, "GPT", load=0.6).time == pytest.approx(3.0)
    assert correction(MACHINE, "GPT", load=0.3) == Correction(memory=correction(MACHINE, "GPT").memory)


def test_a_like_load_counts_by_how_near_it_is() -> None:
    """At load 0.05 a run at 0 and one at 0.1 weigh 0.5 each, together as much as the uncorrected one: between them."""
    record_outcome(MACHINE, outcome(2.0, load=0.0))
    record_outcome(MACHINE, outcome(2.0, load=0.1))
    assert correction(MACHINE, "GPT", load=0.05).time == pytest.approx(2**0.5)
    assert correction(MACHINE, "GPT", load=0.0).time == pytest.approx(2**0.5)
    assert correction(MACHINE, "GPT", load=0.08).time == pytest.approx(2**0.5)
    record_outcome(MACHINE, outcome(2.0, load=0.05))
    assert correction(MACHINE, "GPT", load=0.05).time == pytest.approx(2.0)


def test_a_trial_is_held_against_the_load_of_its_own_time() -> None:
    """A trial at load 0.5 with a run at 0.5 tells how trials err, whatever the load is now; a run at 0.1 does not."""
    busy = replace(outcome(1.3, basis="trial", load=0.5), planned_load=0.5)
    record_outcome(MACHINE, replace(busy, load=0.1, measured_step=0.01))
    assert correction(MACHINE, "GPT", basis="trial").time == 1.0
    record_outcome(MACHINE, busy)
    record_outcome(MACHINE, busy)
    assert correction(MACHINE, "GPT", basis="trial", load=0.0).time == pytest.approx(1.3)


def test_what_is_too_far_off_counts_as_just_that_far() -> None:
    for _ in range(2):
        record_outcome(MACHINE, replace(outcome(100.0), measured_memory=7000))
    found = correction(MACHINE, "GPT")
    assert (found.time, found.memory) == (pytest.approx(4.0), pytest.approx(1.5))


def test_a_correction_that_was_applied_does_not_cancel_itself() -> None:
    """The model is 1.5 times too fast; predictions that were corrected by 1.5 are right, and 1.5 stays right."""
    record_outcome(MACHINE, outcome(1.5))
    record_outcome(MACHINE, outcome(1.0, applied=1.5))
    assert correction(MACHINE, "GPT").time == pytest.approx(1.5)


def test_only_the_same_kind_basis_and_machine_count() -> None:
    record_outcome(MACHINE, outcome(3.0, kind="CNN"))
    record_outcome(MACHINE, outcome(3.0, basis="trial"))
    record_outcome("another", outcome(3.0))
    assert correction(MACHINE, "GPT") == Correction()
    assert correction(MACHINE, "GPT", basis="trial").time == pytest.approx(3.0**0.5)


def test_old_outcomes_are_forgotten() -> None:
    for _ in range(RECENT):
        record_outcome(MACHINE, outcome(3.0))
    for _ in range(RECENT):
        record_outcome(MACHINE, outcome(1.0))
    assert correction(MACHINE, "GPT").time == pytest.approx(1.0)


def test_outcomes_survive_their_file_and_are_dated() -> None:
    record_outcome(MACHINE, outcome(1.2))
    (found,) = recorded_outcomes(MACHINE)
    assert found.measured_step == pytest.approx(0.12)
    assert found.recorded_at.startswith("20")


def test_a_line_cut_short_is_left_out() -> None:
    record_outcome(MACHINE, outcome(1.2))
    with outcomes_path(MACHINE).open("a") as file:
        file.write('{"kind": "GPT", "predi')
    assert len(recorded_outcomes(MACHINE)) == 1


def test_a_folder_that_cannot_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    monkeypatch.setenv("MESHWRIGHT_CACHE", str(occupied))
    with pytest.raises(DocumentError) as caught:
        record_outcome(MACHINE, outcome(1.0))
    assert str(caught.value) == (
        f"cannot write {outcomes_path(MACHINE)}: File exists\n"
        "  because: the outcome of this run improves the next prediction, and is kept there\n"
        "  instead: name a folder that can be written: MESHWRIGHT_CACHE=FOLDER"
    )


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(0.01, 1)), min_size=1, max_size=10))
def test_the_center_lies_between_the_extremes_and_nothing(values: list[tuple[float, float]]) -> None:
    found = [value for value, _ in values]
    rounding = 1e-12  # of sums of at most eleven weights of at most 1
    assert min(0.0, *found) - rounding <= _center(values) <= max(0.0, *found) + rounding


def test_unknown_figures_do_not_count() -> None:
    record_outcome(MACHINE, replace(outcome(1.0), measured_step=0.0, predicted_memory=0))
    assert correction(MACHINE, "GPT") == Correction()


@pytest.mark.parametrize(("flops", "decade"), [(0, 0), (9.9e6, 6), (1e7, 7), (2.5e11, 11)])
def test_a_kind_is_a_model_of_a_size_on_a_device(flops: float, decade: int) -> None:
    kind = outcome_kind(model="Sequential", parameters=1000, flops=flops, device="cpu")
    assert kind == f"Sequential of 10^3 parameters, 10^{decade} FLOP, on cpu"
    split = outcome_kind(model="Sequential", parameters=1000, flops=flops, device="cpu", form="split by tensor")
    assert split == f"{kind}, split by tensor"


def test_an_outcome_that_weighs_a_little_less_moves_a_little_less() -> None:
    """Beside the uncorrected price, which weighs 1: half its way with weight 1; with 0.9 the middle, 0.95, lies 0.05
    before the outcome's share, which therefore has 0.2 of the 0.5 around it; with 0.5 none. Two are believed."""
    assert _center([(1.0, 1.0)]) == pytest.approx(0.5)
    assert _center([(1.0, 0.9)]) == pytest.approx(0.4)
    assert _center([(1.0, 0.5)]) == 0.0
    assert _center([(1.0, 1.0), (1.0, 1.0)]) == pytest.approx(1.0)
    assert _center([]) == 0.0
