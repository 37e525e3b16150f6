"""The examples are listed and copied, from a checkout and from an installed wheel."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from meshwright.cli._app import run_command
from meshwright.cli._examples import examples_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to copy into."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_example_is_listed_with_its_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["examples", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["examples"]
    assert listed.keys() == {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert all(listed.values())


def test_one_is_copied_here(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert run_command(["examples", "character_gpt"]) == 0
    assert capsys.readouterr().out == "copied to character_gpt.py; next: meshwright run character_gpt.py\n"
    copied = (folder / "character_gpt.py").read_text(encoding="utf-8")
    assert copied == (examples_folder() / "character_gpt.py").read_text(encoding="utf-8")


def test_nothing_is_overwritten(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "lstm.py").write_text("mine", encoding="utf-8")
    assert run_command(["examples", "lstm"]) == 2
    assert capsys.readouterr().err.startswith("meshwright: lstm.py is there already\n")
    assert (folder / "lstm.py").read_text(encoding="utf-8") == "mine"


def test_a_misspelt_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["examples", "character_gtp"]) == 2
    assert "because: did you mean 'character_gpt'?" in capsys.readouterr().err


def test_a_wheel_has_them(folder: Path) -> None:
    """Built without isolation and without the network, by the build backend that pyproject names."""
    build = "import hatchling.build, sys; print(hatchling.build.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    names = set(zipfile.ZipFile(folder / done.stdout.split()[-1]).namelist())
    assert {f"meshwright/_examples/{path.name}" for path in (ROOT / "examples").glob("*.py")} <= names
