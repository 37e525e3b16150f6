"""The examples as files: short, described, and the diff the true difference of the loop before and after."""

import ast
import difflib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_is_under_60_lines_and_says_in_one_line_what_it_shows(script: Path) -> None:
    source = script.read_text(encoding="utf-8")
    assert len(source.splitlines()) < 60
    described = ast.get_docstring(ast.parse(source)) or ""
    assert described.endswith(".")
    assert "\n" not in described


def test_the_diff_is_the_true_difference_of_the_loop_before_and_after() -> None:
    before, after = EXAMPLES / "existing_loop_before.py", EXAMPLES / "existing_loop.py"
    lines = difflib.unified_diff(
        before.read_text(encoding="utf-8").splitlines(keepends=True),
        after.read_text(encoding="utf-8").splitlines(keepends=True),
        before.name,
        after.name,
    )
    assert (EXAMPLES / "before_after.diff").read_text(encoding="utf-8") == "".join(lines)


def test_the_change_to_an_existing_loop_is_three_lines_in_and_four_out() -> None:
    lines = (EXAMPLES / "before_after.diff").read_text(encoding="utf-8").splitlines()[2:]
    added = [line for line in lines if line.startswith("+") and line.strip("+ ")]
    removed = [line for line in lines if line.startswith("-")]
    assert (len(added), len(removed)) == (3, 4)
