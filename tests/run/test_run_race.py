"""The race's arithmetic, with made-up heats on a made-up clock."""

import pytest

from meshwright.plan import TrialResult
from meshwright.run._race import Heat, beside, race


class Track:
    """Runners whose every step takes its pace times the load of that heat; a heat takes as long as it is given."""

    def __init__(self, *paces: float, load=lambda number: 1.0) -> None:  # noqa: ARG005
        self.now = 0.0
        self.heats: list[int] = []
        self._paces = paces
        self._load = load

    def heat(self, runner: int, duration: float) -> Heat:
        self.heats.append(runner)
        pace = self._paces[runner]
        if pace < 0:
            return Heat(failure="RuntimeError: no")
        step = pace * self._load(len(self.heats))
        count = max(1, int(duration / step))
        self.now += count * step
        return Heat(durations=(step,) * count, memory=int(pace * 1000))

    def race(self, *, budget: float):
        return race(len(self._paces), self.heat, budget=budget, clock=lambda: self.now)


def test_steps_are_the_medians():
    results = Track(0.010, 0.011, 0.5).race(budget=6)
    assert [results[runner].step for runner in range(3)] == pytest.approx([0.010, 0.011, 0.5])
    assert [results[runner].memory for runner in range(3)] == [10, 11, 500]


def test_clearly_slower_runners_run_once_and_close_ones_again():
    track = Track(0.010, 0.0101, 0.02)
    track.race(budget=6)
    assert track.heats.count(2) == 1
    assert track.heats.count(0) == track.heats.count(1) > 2


def test_rounds_alternate_the_order():
    track = Track(0.010, 0.0101)
    track.race(budget=6)
    assert track.heats[:4] == [0, 1, 1, 0]


def test_load_that_rises_after_the_first_round_does_not_make_a_dropped_runner_win():
    """The slow one ran at load 1 only (14 ms); the best at load 2 mostly (20 ms). It is still 1.4 times faster."""
    track = Track(0.010, 0.0102, 0.014, load=lambda number: 1.0 if number <= 3 else 2.0)
    results = track.race(budget=6)
    assert results[2].step / results[0].step == pytest.approx(1.4)
    assert results[0].step < results[1].step < results[2].step


def test_a_single_survivor_ends_the_race_early():
    track = Track(0.010, 0.1)
    track.race(budget=60)
    assert track.heats == [0, 1]


def test_steps_longer_than_the_budget_leave_the_rest_untried():
    results = Track(4.0, 5.0, 6.0).race(budget=6)
    assert set(results) == {0, 1}
    assert results[0].low == results[0].high == 0.0


def test_no_round_begins_that_the_time_does_not_reach():
    """Round 1: two runners, two steps of 0.7 s each; of 6 s 3.2 s are left, and six more steps take 4.2 s."""
    track = Track(0.7, 0.7)
    track.race(budget=6)
    assert track.heats == [0, 1]


def test_a_failure_is_a_result_and_stops_nobody():
    results = Track(-1, 0.010).race(budget=6)
    assert results[0].failure == "RuntimeError: no"
    assert results[1].failure == ""
    assert results[1].step == pytest.approx(0.010)


def test_nothing_to_race():
    assert Track().race(budget=6) == {}
    assert Track(-1, -1).race(budget=6).keys() == {0, 1}


def test_spread_covers_what_was_seen():
    result = Track(0.010, 0.0101, load=lambda number: 1.0 + 0.05 * (number % 2)).race(budget=6)[0]
    assert result.low <= result.step <= result.high
    assert result.high > result.low


def test_a_late_runner_is_measured_beside_a_known_one_at_the_level_of_the_earlier_race():
    """The machine is half as fast now; beside the one known at 10 ms, now 20, the late one takes 15: 7.5 then."""
    known = TrialResult(step=0.010)
    late = TrialResult(step=0.015, low=0.014, high=0.018, memory=7)
    found = beside(known, {0: TrialResult(step=0.020), 1: late})
    assert found == TrialResult(step=0.0075, low=0.007, high=0.009, memory=7)


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ({0: TrialResult(step=1.0), 1: TrialResult(step=0.0, failure="no compiler")}, "no compiler"),
        ({0: TrialResult(step=0.0, failure="gone"), 1: TrialResult(step=1.0)}, "gone"),
        ({0: TrialResult(step=1.0)}, "it did not come to an end"),
    ],
)
def test_a_late_runner_that_did_not_run_says_why(pair, reason):
    assert beside(TrialResult(step=1.0), pair) == TrialResult(step=0.0, failure=reason)
