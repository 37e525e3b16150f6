"""Each example runs as a plain script in one process, for a few steps."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from starter import Starter

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def _run(tmp_path: Path, name: str, *arguments: str, python: str = sys.executable) -> str:
    """What the script printed."""
    ended = subprocess.run(
        [python, "-W", "error", str(EXAMPLES / f"{name}.py"), *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("digits_cnn", ["--epochs", "1"], r"held-out accuracy (0\.\d+)"),
        ("transformers_model", ["--steps", "2", "--batch", "4", "--length", "32"], r"held-out accuracy (0\.\d+)"),
        ("tabular_mlp", ["--epochs", "5", "--width", "32"], r"held-out accuracy (0\.\d+)"),
        ("lstm", ["--steps", "3", "--length", "16"], r"loss (\d\.\d+) after 3 steps"),
    ],
)
def test_an_example_runs_to_its_last_line(tmp_path: Path, name: str, arguments: list[str], says: str) -> None:
    assert re.search(says, _run(tmp_path, name, *arguments).splitlines()[-1])


def test_the_character_gpt_learns_any_text(tmp_path: Path, starter: Starter) -> None:
    """A text that repeats itself is soon below the 3.3 of a guess among its 27 characters (ln 27)."""
    (tmp_path / "book.txt").write_text("the quick brown fox jumps over the lazy dog " * 1000, encoding="utf-8")
    printed = _run(tmp_path, "character_gpt", "book.txt", "--steps", "15", python=starter.python)
    found = re.fullmatch(r"held-out loss (\d\.\d+) after 15 steps on 39,600 characters", printed.splitlines()[-1])
    assert found is not None
    assert float(found[1]) < 2.5


def test_an_existing_loop_learns_what_it_learnt_before(tmp_path: Path, starter: Starter) -> None:
    before = _run(tmp_path, "existing_loop_before", "--epochs", "2", python=starter.python)
    after = _run(tmp_path, "existing_loop", "--epochs", "2", python=starter.python)
    assert after == before
