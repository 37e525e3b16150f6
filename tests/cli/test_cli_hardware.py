"""The machine is shown as it was measured, and can be saved to plan for."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from meshwright.cli._app import run_command
from meshwright.hardware import identity, load_now, read_cluster, write_cluster
from meshwright.hardware._cache import calibration_path
from planning_builders import machine


@pytest.fixture(autouse=True)
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration of this machine, made by hand, in a cache of its own."""
    monkeypatch.setenv("MESHWRIGHT_CACHE", str(tmp_path / "cache"))
    write_cluster(replace(machine(), identity=identity(), load=load_now()), calibration_path(identity()))


def test_for_machines_it_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["hardware", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["identity"] == identity()
    assert shown["hosts"][0]["device"]["cores"] == 2


def test_it_is_saved_as_a_cluster_to_plan_for(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    assert run_command(["hardware", "--save", str(path)]) == 0
    assert "round figures" in capsys.readouterr().out
    assert read_cluster(path).links == machine().links
