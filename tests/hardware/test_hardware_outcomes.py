"""Predictions beside measurements, and the correction that follows."""

from math import exp, log, sqrt
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.errors import DocumentError
from meshwright.hardware import Correction, Outcome, correction, outcome_kind, record_outcome, recorded_outcomes
from meshwright.hardware._cache import outcomes_path
from meshwright.hardware._outcome import RECENT, _logarithms

MACHINE = "a machine"


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MESHWRIGHT_CACHE", str(tmp_path))


def outcome(ratio: float, *, kind: str = "GPT", basis: str = "model", applied: float = 1.0) -> Outcome:
    return Outcome(
        kind=kind,
        basis=basis,
        predicted_step=0.1,
        measured_step=0.1 * ratio,
        predicted_memory=1000,
        measured_memory=1100,
        applied=Correction(time=applied),
    )


def test_without_outcomes_nothing_is_corrected() -> None:
    assert correction(MACHINE, "GPT") == Correction()


def test_the_geometric_mean_of_what_was_seen() -> None:
    """Twice as long and half as long cancel; four times as long makes (2 · 1/2 · 4)^(1/3) = 4^(1/3)."""
    for ratio in (2.0, 0.5, 4.0):
        record_outcome(MACHINE, outcome(ratio))
    found = correction(MACHINE, "GPT")
    assert found.time == pytest.approx(4 ** (1 / 3))
    assert found.memory == pytest.approx(1.1)
    deviations = [log(ratio) - log(4) / 3 for ratio in (2.0, 0.5, 4.0)]
    assert found.spread == pytest.approx(sqrt((0.15**2 + sum(value**2 for value in deviations)) / 4))


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
    assert correction(MACHINE, "GPT", basis="trial").time == pytest.approx(3.0)


def test_old_outcomes_are_forgotten() -> None:
    record_outcome(MACHINE, outcome(100.0))
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


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 100.0), min_size=1, max_size=10))
def test_a_correction_lies_between_the_extremes(ratios: list[float]) -> None:
    values = _logarithms([(ratio, 1.0, 1.0) for ratio in ratios])
    mean = exp(sum(values) / len(values))
    assert min(ratios) * 0.999 <= mean <= max(ratios) * 1.001


def test_unknown_figures_do_not_count() -> None:
    assert _logarithms([(0.0, 1.0, 1.0), (1.0, 0.0, 1.0)]) == []


@pytest.mark.parametrize(("flops", "decade"), [(0, 0), (9.9e6, 6), (1e7, 7), (2.5e11, 11)])
def test_a_kind_is_a_model_of_a_size_on_a_device(flops: float, decade: int) -> None:
    assert outcome_kind(model="Sequential", flops=flops, device="cpu") == f"Sequential, 10^{decade} FLOP, on cpu"
