"""Planning runs the script up to its first step in throw-away processes, and says what kept it from a plan."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from launch_builders import cluster, tiny_script
from meshwright.cost import Measurement
from meshwright.documents import read_toml
from meshwright.hardware import identity, write_cluster
from meshwright.launch import latest_run
from meshwright.launch._planning import num_trial_workers
from meshwright.plan import Goal, Pins, read_plan
from planning_builders import machine
from starter import Starter

LIMIT = 120.0


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the script and two clusters: one far away, and this machine with hand-made rates."""
    tiny_script(tmp_path)
    write_cluster(replace(machine(), identity="elsewhere"), tmp_path / "elsewhere.toml")
    write_cluster(replace(machine(), identity=identity()), tmp_path / "here.toml")
    return tmp_path


def _meshwright(place: Path, command: str, *, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-m", "meshwright.cli", *command.split()],
        cwd=place,
        env={**os.environ, "MESHWRIGHT_CACHE": str(place / "cache")},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )


@pytest.mark.parametrize(
    ("options", "mode", "code", "message"),
    [
        ("", "none", 2, "meshwright: tiny.py ended without a call of step(batch)\n"),
        ("", "vector", 9, "meshwright: the loss has shape [8], not"),
        ("", "empty", 8, "meshwright: a batch of size 0"),
        ("--memory 1MiB", "ok", 3, "meshwright: Linear needs at least"),
        ("--planning-limit 0.01", "ok", 10, "meshwright: planning tiny.py took longer than 10 ms and was ended\n"),
    ],
)
def test_what_keeps_a_script_from_a_plan_is_named(
    place: Path, starter: Starter, options: str, mode: str, code: int, message: str
) -> None:
    done = _meshwright(place, f"plan --cluster elsewhere.toml {options} tiny.py {mode}", python=starter.python)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (place / "plan.toml").exists()


def test_a_plan_is_written_and_the_script_s_own_output_is_not_shown(place: Path) -> None:
    done = _meshwright(place, "plan --cluster elsewhere.toml --set workers=2 --json tiny.py ok")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["path"] == "plan.toml"
    plan = read_plan(place / "plan.toml")
    assert plan.strategy.num_workers == 2
    assert plan.origins["workers"] == "command line"
    assert plan.prediction.basis == "model"
    assert "begins" not in done.stderr


def test_on_this_machine_plans_are_tried_and_the_run_teaches_the_next_prediction(place: Path) -> None:
    done = _meshwright(place, "run --cluster here.toml --json tiny.py ok")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["prediction"]["basis"] == "trial"
    folder = latest_run(place / "outputs")
    assert read_plan(folder.plan).candidates[0].trial > 0
    assert read_toml(Measurement, folder.measurement).status == "finished"
    assert folder.graph.is_file()
    (outcomes,) = (place / "cache").glob("outcomes-*.jsonl")
    assert {json.loads(line)["basis"] for line in outcomes.read_text(encoding="utf-8").splitlines()} == {
        "model",
        "trial",
    }


@pytest.mark.parametrize(
    ("goal", "where", "count"),
    [
        (Goal(), "elsewhere", 1),
        (Goal(), "here", 4),
        (Goal(pins=Pins(workers=2)), "here", 2),
    ],
)
def test_as_many_processes_try_plans_as_a_plan_here_may_need(goal: Goal, where: str, count: int) -> None:
    machine = cluster(cores=4, identity=identity() if where == "here" else where)
    assert num_trial_workers(goal, machine) == count


def test_processes_that_wait_take_no_more_than_a_quarter_of_the_memory() -> None:
    """Of 8 GiB a quarter is 2 GiB: eight processes of 256 MiB."""
    assert num_trial_workers(Goal(), cluster(cores=64, identity=identity())) == 8
