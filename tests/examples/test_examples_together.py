"""Examples under `meshwright run` and `meshwright verify`, with two workers on a machine from a file."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from meshwright.cost import Batch, MemoryBreakdown, Mesh, Prediction, Strategy, TimeBreakdown, Verification, Worker
from meshwright.documents import read_toml
from meshwright.hardware import write_cluster
from meshwright.plan import Plan, write_plan
from planning_builders import machine
from starter import Starter

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Options that name a machine and a plan of two workers for it, so that nothing is measured."""
    write_cluster(machine(), tmp_path / "cluster.toml")
    workers = tuple(Worker(rank=rank, host="here", device="cpu", threads=1) for rank in range(2))
    strategy = Strategy(workers=workers, mesh=Mesh(dp_replicate=2), batch=Batch(size=128, shares=(1, 1)))
    time, memory = TimeBreakdown(forward=0.01, backward=0.02), MemoryBreakdown(context=2**28)
    prediction = Prediction(time=time, low=0.02, high=0.04, memory=memory)
    write_plan(Plan(model="Sequential", strategy=strategy, prediction=prediction), tmp_path / "plan.toml")
    return ["--cluster", str(tmp_path / "cluster.toml"), "--plan", str(tmp_path / "plan.toml")]


def _meshwright(tmp_path: Path, *arguments: str, python: str = sys.executable) -> str:
    """What the command printed to its standard output."""
    ended = subprocess.run(
        [python, "-m", "meshwright.cli", *arguments],
        cwd=tmp_path,
        env={**os.environ, "MESHWRIGHT_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_digits_are_learnt_by_two_workers_proved_and_reported(
    tmp_path: Path, files: list[str], starter: Starter
) -> None:
    """1500 digits in batches of 128: twelve steps, the last with 92 examples."""
    printed = _meshwright(tmp_path, "run", *files, "--output", "runs", str(EXAMPLES / "digits_cnn.py"), "--epochs", "1")
    assert re.search(r"^held-out accuracy 0\.\d+$", printed, re.MULTILINE)
    (run,) = (tmp_path / "runs").iterdir()
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [step["step"] for step in steps] == list(range(1, 13))
    assert steps[-1]["loss"] < steps[0]["loss"]
    plan = str(run / "plan.toml")
    script = [str(EXAMPLES / "digits_cnn.py"), "--epochs", "1"]
    _meshwright(tmp_path, "verify", *files[:2], "--plan", plan, *script, python=starter.python)
    found = read_toml(Verification, run / "verification.toml")
    assert found.equal
    assert found.reference_losses == pytest.approx([step["loss"] for step in steps[:3]], rel=1e-5)
    _meshwright(tmp_path, "report", str(run), python=starter.python)
    assert "Proved equal to one device" in (run / "report.html").read_text(encoding="utf-8")


def test_an_existing_loop_on_two_workers_learns_what_it_learnt_before(
    tmp_path: Path, files: list[str], starter: Starter
) -> None:
    script = EXAMPLES / "existing_loop.py"
    together = _meshwright(tmp_path, "run", *files, str(script), "--epochs", "1", python=starter.python)
    before = subprocess.run(
        [starter.python, str(EXAMPLES / "existing_loop_before.py"), "--epochs", "1"],
        capture_output=True, text=True, check=True, timeout=200,
    ).stdout  # fmt: skip
    said = re.compile(r"^held-out accuracy (\d\.\d+), last loss (\d\.\d+)$", re.MULTILINE)
    ours, theirs = said.search(together), said.search(before)
    assert ours is not None
    assert theirs is not None
    assert float(ours[1]) == pytest.approx(float(theirs[1]), abs=0.004), "one digit of 297 may tip over"
    assert float(ours[2]) == pytest.approx(float(theirs[2]), rel=1e-4)
