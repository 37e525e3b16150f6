"""`meshwright verify` of one tiny script: a plan that computes the same is proved, another is found out."""

import json
import re
from pathlib import Path

import pytest

from launch_builders import run_tiny
from starter import Starter


def test_a_plan_that_computes_the_same_is_proved(place: Path) -> None:
    code, out, err = run_tiny(place, "--plan two.toml --steps 2 --json", "ok", verb="verify")
    assert code == 0, err
    found = json.loads(out)
    assert (found["equal"], found["steps"], len(found["losses"])) == (True, 2, 2)


def test_a_script_whose_workers_compute_something_else_is_found_out(place: Path, starter: Starter) -> None:
    """The last of two workers triples its loss: the gradient of its half is three times what it should be."""
    code, out, err = run_tiny(place, "--plan two.toml --json", "unequal", verb="verify", python=starter.python)
    assert code == 4, err
    found = json.loads(out)
    assert found["equal"] is False
    assert found["gradient"] > 0.1


@pytest.mark.parametrize(
    ("mode", "code", "dtype", "told"),
    [
        ("kink", 0, "float64", r"in float32 gradients differ by \d\.\de-04: a rounding moves elements over a kink"),
        ("near", 4, "float32", r"in float64 gradients differ by \d\.\de-04 too"),
    ],
)
def test_where_float32_is_near_float64_decides(
    place: Path, starter: Starter, mode: str, code: int, dtype: str, told: str
) -> None:
    """The last worker's gradient is off by a thousandth: in float32 only, or in any data type."""
    ended, out, err = run_tiny(place, "--plan two.toml --json", mode, verb="verify", python=starter.python)
    assert ended == code, err
    found = json.loads(out)
    assert (found["equal"], found["dtype"]) == (code == 0, dtype)
    assert re.match(told, found["notes"][-1]), found["notes"]
