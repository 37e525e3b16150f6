"""What an exchange and computing that run beside each other add, against values computed by hand."""

from dataclasses import replace

import numpy as np
import pytest
from accelerator_builders import CALIBRATION, HABITS, MACHINE

from meshwright.cost.accelerator import Collectives, Interference, Slowdown, after_backward, beside, exposed

SLOWDOWN = Slowdown(computing=2.0, exchange=1.25)


def test_both_are_slowed_until_the_shorter_one_ends() -> None:
    """1 s of exchange takes 1.25, in which computing does 0.625; 1 s of computing takes 2, in which 1.6 s are sent."""
    assert exposed(1.0, 10.0, SLOWDOWN) == pytest.approx(0.625)
    assert exposed(10.0, 1.0, SLOWDOWN) == pytest.approx(2.0 + (10 - 1.6) - 1)
    assert exposed(np.array([1.0, 10.0]), np.array([10.0, 1.0]), SLOWDOWN) == pytest.approx([0.625, 9.4])
    assert exposed(1.0, float("inf"), SLOWDOWN) == pytest.approx(0.625)
    assert exposed(0.0, 1.0, SLOWDOWN) == 0.0


def test_where_nothing_slows_the_longer_one_counts() -> None:
    assert exposed(3.0, 2.0, Slowdown()) == pytest.approx(1.0)
    assert exposed(2.0, 3.0, Slowdown()) == 0.0


def test_habits_add_to_it_where_they_wait_for_more() -> None:
    """Of 1 s behind 10 interference exposes 0.625; habits of 0.8 expose more, of 0.5 nothing besides."""
    assert beside(1.0, 10.0, replace(HABITS, reduction_exposed=0.5), SLOWDOWN) == pytest.approx(0.625)
    assert beside(1.0, 10.0, replace(HABITS, reduction_exposed=0.8), SLOWDOWN) == pytest.approx(0.8)
    assert after_backward(1.0, 0.0, 10.0, replace(HABITS, hidden_share=1.0), SLOWDOWN) == pytest.approx(0.625)


def test_the_slowdown_is_that_of_what_carries_a_group() -> None:
    """8 neighbours on the host's own link, or PCIe; 16, or 8 that stand a host apart, on the network."""
    known = Interference(link=SLOWDOWN, pcie=Slowdown(computing=1.5), network=Slowdown(computing=1.1))
    times = Collectives(MACHINE, replace(CALIBRATION.network, interference=known))
    assert times.slowdown(8, 1) == known.link
    assert times.slowdown(16, 1) == times.slowdown(8, 8) == known.network
    slow = Collectives(replace(MACHINE, link=3e10), times.shares)
    assert slow.slowdown(8, 1) == known.pcie
