"""A run is summed up however it ended, and what it teaches is kept."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from launch_builders import cluster, plan, run_folder
from meshwright.cost import Measurement, Mesh, StepRecord, TimeBreakdown
from meshwright.documents import write_toml
from meshwright.hardware import Correction, correction, identity, recorded_outcomes
from meshwright.launch import sum_up
from meshwright.launch._ending import remember

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


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHWRIGHT_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("cache")
def test_a_finished_run_is_remembered_beside_the_calibration() -> None:
    here = identity()
    remember(replace(plan(), cluster=f"test {here}"), MEASURED, cluster=cluster(identity=here))
    (outcome,) = recorded_outcomes(here)
    assert (outcome.kind, outcome.basis) == ("Linear, 10^0 FLOP, on cpu", "model")
    assert (outcome.predicted_step, outcome.measured_step) == (0.004, 0.003)
    assert outcome.measured_memory == 2**28


@pytest.mark.usefixtures("cache")
def test_a_trial_and_the_model_behind_it_are_remembered_both() -> None:
    tried = replace(plan(), prediction=replace(plan().prediction, basis="trial"), cluster=f"test {identity()}")
    remember(tried, MEASURED, cluster=cluster(identity=identity()))
    steps = {outcome.basis: outcome.predicted_step for outcome in recorded_outcomes(identity())}
    assert steps == {"trial": pytest.approx(0.003), "model": 0.004}


@pytest.mark.usefixtures("cache")
def test_runs_that_are_off_by_the_same_again_and_again_do_not_make_the_correction_grow() -> None:
    """Uncorrected prices of 4 ms against 3 ms, three times: what the next one is multiplied by stays 3/4."""
    here = identity()
    for _ in range(3):
        remember(replace(plan(), cluster=f"test {here}"), MEASURED, cluster=cluster(identity=here))
        assert correction(here, "Linear, 10^0 FLOP, on cpu").time == pytest.approx(0.75)
    halved = replace(plan(), cluster=f"test {here}", corrections={"model": Correction(time=0.5)})
    remember(halved, MEASURED, cluster=cluster(identity=here))
    assert correction(here, "Linear, 10^0 FLOP, on cpu").time == pytest.approx(0.75 * 0.5**0.25)


@pytest.mark.usefixtures("cache")
def test_a_split_model_teaches_nothing_about_whole_ones() -> None:
    split = replace(plan().strategy, workers=plan().strategy.workers * 2, mesh=Mesh(tp=2))
    made = replace(plan(), strategy=split, cluster=f"test {identity()}")
    remember(made, MEASURED, cluster=cluster(identity=identity()))
    (outcome,) = recorded_outcomes(identity())
    assert outcome.kind == "Linear, 10^0 FLOP, on cpu, split by tensor"


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
    remember(replace(plan(), cluster=f"test {made_for}"), measured, cluster=cluster(identity=ran_on))
    assert recorded_outcomes(identity()) == ()
