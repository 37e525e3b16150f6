"""`plan --cluster` for hardware that is not here, and `explain --set`: from a saved graph, without torch."""

import json
import random
from pathlib import Path

import pytest

import search_builders as build
from meshwright.cli import run_command
from meshwright.graph import write_graph


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("elsewhere")
    write_graph(build.random_graph(random.Random(3)), place / "graph.json")
    return place


def test_plan_for_a_short_form(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = folder / "made.toml"
    options = ["--cluster", "h100:2x2", "--tokens", "1k", "--save", str(saved), "--json"]
    assert run_command(["plan", *options, str(folder / "graph.json")]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert plan["cluster"] == "h100:2x2"
    assert plan["target"]["tokens"] >= 1000
    assert saved.is_file()
    assert run_command(["explain", str(saved)]) == 0
    shown = capsys.readouterr().out
    assert "Whole run" in shown
    assert "Binding" in shown
    other = 1 if plan["strategy"]["mesh"]["tp"] == 2 else 2
    assert run_command(["explain", str(saved), "--set", f"tensor={other}"]) == 0
    assert "What the change would do" in capsys.readouterr().out


def test_a_limit_without_a_length(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--cluster", "h100:2x2", "--deadline", "3d"]
    assert run_command(["plan", *options, str(folder / "graph.json")]) == 2
    assert "--deadline without --tokens or --steps" in capsys.readouterr().err


def test_a_length_that_is_said_twice(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--cluster", "h100:2x2", "--tokens", "1T", "--steps", "10"]
    assert run_command(["plan", *options, str(folder / "graph.json")]) == 2
    assert "--tokens 1e+12 together with --steps 10" in capsys.readouterr().err


def test_an_objective_that_there_is_not(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["plan", "--minimize", "tine", "--cluster", "h100:2", str(folder / "graph.json")]) == 2
    assert "did you mean 'time'?" in capsys.readouterr().err
