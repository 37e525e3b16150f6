"""Of the agent's list of the dead, those that it ended itself are not the cause."""

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from meshwright.launch.agent import own_failures


def _failed(code: int, timestamp: int) -> Any:
    return SimpleNamespace(exitcode=code, timestamp=timestamp)


@pytest.mark.parametrize(
    ("failures", "own"),
    [
        ({0: _failed(-signal.SIGTERM, 100), 1: _failed(7, 100)}, {1: 7}),
        ({0: _failed(130, 101), 1: _failed(-signal.SIGKILL, 100)}, {1: -9}),
        ({1: _failed(1, 100), 0: _failed(-signal.SIGKILL, 106)}, {1: 1}),
        ({0: _failed(10, 100), 1: _failed(9, 100)}, {0: 10, 1: 9}),
        ({0: _failed(130, 100)}, {0: 130}),
    ],
    ids=["asked to end", "ended tidily", "killed after the grace", "two by themselves", "nobody else"],
)
def test_only_those_that_failed_by_themselves_count(failures: dict[int, Any], own: dict[int, int]) -> None:
    assert own_failures(failures) == own
