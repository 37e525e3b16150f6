"""A run is summed up however it ended, and what it teaches is kept."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from launch_builders import cluster, plan, run_folder
from meshwright.cost import Measurement, StepRecord, TimeBreakdown
from meshwright.documents import write_toml
from meshwright.hardware import Correction, correction, identity, recorded_outcomes
from meshwright.launch import sum_up
from meshwright.launch._ending import remember
from meshwright.plan import Plan

MEASURED = Measurement(
    status="finished", steps=20, step=0.003, low=0.002, high=0.004, time=TimeBreakdown(forward=0.003), memory=2**28
)


def _line(step: int, duration: float) -> str:
    record = StepRecord(
        step=step,
        loss=1.0,
        duration=duration,
        samples_per_second=1.0,
        memory=step * 100,
        time=TimeBreakdown(forward=duration),
    )
    return json.dumps(asdict(record)) + "\n"


def test_what_rank_0_wrote_is_kept_with_the_launcher_s_status(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    write_toml(MEASURED, folder.measurement)
    summed = sum_up(folder, status="failed", reason="worker 1 was killed")
    assert summed == replace(MEASURED, status="failed", reason="worker 1 was killed")


def test_where_rank_0_was_killed_its_steps_are_summed(tmp_path: Path) -> None:
    """Three first steps are left out; of 1, 2 and 3 s the median is 2 s; a line cut in half does not count."""
    folder = run_folder(tmp_path)
    durations = [9.0, 9.0, 9.0, 1.0, 2.0, 3.0]
    lines = [_line(step, duration) for step, duration in enumerate(durations, start=1)]
    folder.metrics.write_text("".join(lines) + '{"step": 7, "los', encoding="utf-8")
    summed = sum_up(folder, status="failed", reason="killed")
    assert (summed.steps, summed.step, summed.low, summed.time.forward, summed.memory) == (6, 2.0, 1.0, 2.0, 600)


def test_a_run_without_a_step_is_summed_too(tmp_path: Path) -> None:
    summed = sum_up(run_folder(tmp_path), status="interrupted", reason="Ctrl-C")
    assert (summed.status, summed.steps, summed.step) == ("interrupted", 0, 0.0)


def made(**changes: Any) -> Plan:
    """A plan that was made here."""
    return replace(plan(), **{"cluster": f"test {identity()}", "kind": "a kind", **changes})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHWRIGHT_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("cache")
def test_a_finished_run_is_remembered_beside_the_calibration() -> None:
    here = identity()
    remember(made(load=0.25), MEASURED, cluster=cluster(identity=here), load=0.5)
    (outcome,) = recorded_outcomes(here)
    assert (outcome.kind, outcome.basis) == ("a kind", "model")
    assert (outcome.load, outcome.planned_load) == (0.5, 0.25)
    assert (outcome.predicted_step, outcome.measured_step) == (0.004, 0.003)
    assert outcome.measured_memory == 2**28


@pytest.mark.usefixtures("cache")
def test_a_trial_and_the_model_behind_it_are_remembered_both() -> None:
    tried = made(prediction=replace(plan().prediction, basis="trial"))
    remember(tried, MEASURED, cluster=cluster(identity=identity()), load=0.0)
    steps = {outcome.basis: outcome.predicted_step for outcome in recorded_outcomes(identity())}
    assert steps == {"trial": pytest.approx(0.003), "model": 0.004}


@pytest.mark.usefixtures("cache")
def test_runs_that_are_off_by_the_same_again_and_again_do_not_make_the_correction_grow() -> None:
    """Steps take twice what the model says, memory 1.2 times, at every run, and each plan contains what is known then.

    The first moves the next price half its way (the mean of ln 2 and ln 1); from the second on it is all known.
    """
    here = identity()
    known, seen = Correction(), []
    measured = replace(MEASURED, step=0.008, memory=round(1.2 * 2**28))
    for _ in range(5):
        prediction = replace(plan().prediction, memory=plan().prediction.memory.scaled(known.memory))
        candidates = (replace(plan().candidates[0], step=0.004 * known.time),)
        corrected = made(candidates=candidates, prediction=prediction, corrections={"model": known})
        remember(corrected, measured, cluster=cluster(identity=here), load=0.0)
        known = correction(here, "a kind")
        seen.append((known.time, known.memory))
    assert seen[0] == pytest.approx((2**0.5, 1.2**0.5))
    assert seen[1:] == [pytest.approx((2.0, 1.2))] * 4


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("measured", "ran_on", "made_for"),
    [
        (replace(MEASURED, status="failed"), identity(), identity()),
        (replace(MEASURED, steps=9), identity(), identity()),
        (MEASURED, "elsewhere", "elsewhere"),
        (MEASURED, identity(), "elsewhere"),
    ],
    ids=["failed", "too short", "other hardware", "a plan for other hardware"],
)
def test_what_says_little_is_not_remembered(measured: Measurement, ran_on: str, made_for: str) -> None:
    remember(made(cluster=f"test {made_for}"), measured, cluster=cluster(identity=ran_on), load=0.0)
    assert recorded_outcomes(identity()) == ()


@pytest.mark.usefixtures("cache")
def test_a_plan_that_says_nothing_of_its_kind_teaches_nothing() -> None:
    remember(made(kind=""), MEASURED, cluster=cluster(identity=identity()), load=0.0)
    assert recorded_outcomes(identity()) == ()
