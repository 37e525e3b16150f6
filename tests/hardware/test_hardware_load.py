"""The load of others while something goes on."""

import os

import pytest

from meshwright.hardware import LoadMeter
from meshwright.hardware._load import ProcessorTimes, load_between


@pytest.mark.parametrize(
    ("total", "idle", "own", "load"),
    [
        (20.0, 20.0, 0.0, 0.0),  # nobody did anything
        (20.0, 4.0, 16.0, 0.0),  # all of it this program's own
        (20.0, 5.0, 10.0, 0.25),  # 20 - 5 - 10 = 5 of 20 s
        (20.0, 0.0, 0.0, 1.0),
        (20.0, 5.0, 15.1, 0.0),  # clocks of processes and of cores tick apart
        (0.0, 0.0, 0.0, 0.0),  # no time has passed
    ],
)
def test_what_is_neither_idle_nor_own_is_load(total: float, idle: float, own: float, load: float) -> None:
    before = ProcessorTimes(total=100.0, idle=50.0, own=30.0)
    after = ProcessorTimes(total=100.0 + total, idle=50.0 + idle, own=30.0 + own)
    assert load_between(before, after) == pytest.approx(load)


def test_own_work_is_not_load_to_oneself_but_to_others() -> None:
    """Measured over the same time; nobody's family holds less than all of the load that another sees."""
    own, others = LoadMeter(), LoadMeter(root=_unrelated())
    end = os.times().user + 0.3
    while os.times().user < end:
        pass
    assert own.read() < others.read()


def _unrelated() -> int:
    """A process that is no ancestor of this one and does nothing: there is none of this number."""
    return 2**31 - 1
