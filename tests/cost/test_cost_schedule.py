"""The orders of a pipeline's schedules, against torch's and against the formulas of the papers."""

import itertools

import pytest

from meshwright.cost import Action, balanced_bubble, bubble, orders, replayed, simulated
from meshwright.errors import PlanError

TIMES = {"forward": 1.0, "backward": 2.0, "input": 1.0, "weight": 1.0}
KINDS = (
    ("gpipe", 1),
    ("gpipe", 2),
    ("1f1b", 1),
    ("interleaved", 2),
    ("interleaved", 3),
    ("zero_bubble", 1),
    ("zero_bubble", 2),
)


def lists(schedule, workers, per_worker, micro_batches):
    return orders(schedule, num_workers=workers, num_stages=workers * per_worker, num_micro_batches=micro_batches)


@pytest.mark.parametrize(("schedule", "per_worker"), KINDS)
def test_every_number_of_micro_batches_ends_and_does_everything_once(schedule, per_worker):
    for workers, micro_batches in itertools.product((1, 2, 3, 4), range(1, 14)):
        found = lists(schedule, workers, per_worker, micro_batches)
        durations = {(work, stage): 1.0 + stage % 3 for work in TIMES for stage in range(workers * per_worker)}
        events = simulated(found, durations)
        works = ("forward", "input", "weight") if schedule == "zero_bubble" else ("forward", "backward")
        expected = {
            Action(work=work, stage=stage, micro_batch=number)
            for work in works
            for stage in range(workers * per_worker)
            for number in range(micro_batches)
        }
        assert {event.action for event in events} == expected
        assert len(events) == len(expected)
        assert all(event.action.stage % workers == event.rank for event in events)


@pytest.mark.parametrize(("workers", "micro_batches"), [(2, 4), (4, 8), (4, 16), (3, 7)])
def test_bubbles_are_those_of_the_papers(workers, micro_batches):
    waiting = workers - 1
    for schedule in ("gpipe", "1f1b"):
        found = balanced_bubble(schedule, num_workers=workers, num_stages=workers, num_micro_batches=micro_batches)
        assert found == pytest.approx(waiting / (micro_batches + waiting))
    found = balanced_bubble("zero_bubble", num_workers=workers, num_stages=workers, num_micro_batches=micro_batches)
    assert found == pytest.approx(waiting / (3 * micro_batches + waiting))


@pytest.mark.parametrize(("workers", "per_worker", "micro_batches"), [(2, 2, 4), (4, 2, 8), (4, 3, 8)])
def test_interleaving_divides_the_bubble(workers, per_worker, micro_batches):
    found = balanced_bubble(
        "interleaved", num_workers=workers, num_stages=workers * per_worker, num_micro_batches=micro_batches
    )
    assert found == pytest.approx((workers - 1) / (per_worker * micro_batches + workers - 1))


def test_1f1b_holds_at_most_as_many_micro_batches_as_stages_follow():
    for rank, actions in enumerate(lists("1f1b", 4, 1, 9)):
        held = list(itertools.accumulate(1 if action.work == "forward" else -1 for action in actions))
        assert max(held) == 4 - rank


def test_a_slow_link_delays_what_follows():
    found = simulated(
        lists("gpipe", 2, 1, 1), {(work, stage): 1.0 for work in TIMES for stage in range(2)}, transfers=[0.5]
    )
    assert [event.start for event in found] == [0.0, 1.5, 2.5, 4.0]


def test_actions_with_times_of_their_own():
    slow = Action(work="forward", stage=0, micro_batch=1)
    found = replayed(lists("gpipe", 2, 1, 2), lambda action: 3.0 if action == slow else 1.0)
    assert [(event.rank, event.start, event.end) for event in found] == [
        (0, 0.0, 1.0), (1, 1.0, 2.0), (0, 1.0, 4.0), (1, 4.0, 5.0),
        (1, 5.0, 6.0), (0, 6.0, 7.0), (1, 6.0, 7.0), (0, 7.0, 8.0),
    ]  # fmt: skip
    assert bubble(found) == pytest.approx((16 - 10) / 16)


def test_numbers_of_stages_that_a_schedule_does_not_take():
    with pytest.raises(PlanError, match="5 stages cannot be shared out among 2 workers"):
        orders("gpipe", num_workers=2, num_stages=5, num_micro_batches=1)
    with pytest.raises(PlanError, match="1f1b has one stage per worker"):
        lists("1f1b", 2, 2, 1)
