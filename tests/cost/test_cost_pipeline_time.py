"""How long a pipeline takes: the search's own fast run against the schedules' actions, one by one."""

import random

import pytest

from meshwright.cost._schedule import orders, simulated
from meshwright.cost.hybrid import Form, in_flight
from meshwright.cost.hybrid._pipeline_time import spans

FORMS = (("1f1b", 1), ("gpipe", 1), ("zero_bubble", 1), ("interleaved", 2), ("interleaved", 3))


@pytest.mark.parametrize("workers", [3, 16])
@pytest.mark.parametrize(("schedule", "chunks"), FORMS)
def test_a_run_is_that_of_its_actions(schedule: str, chunks: int, workers: int) -> None:
    """Random times of stages and cuts: when each worker ends, and what it holds at most, with few workers and many."""
    rng = random.Random(workers + chunks)
    stages, count = workers * chunks, workers + 2 if chunks == 1 else 2 * workers
    form = Form(schedule=schedule, num_workers=workers, num_stages=stages, micro_batches=count)  # type: ignore[arg-type]
    forward, backward = ([rng.uniform(1, 3) for _ in range(stages)] for _ in range(2))
    cuts = [rng.choice((0.0, rng.uniform(0, 1))) for _ in range(stages - 1)]
    lists = orders(schedule, num_workers=workers, num_stages=stages, num_micro_batches=count)  # type: ignore[arg-type]
    parts = {
        "forward": (forward, 1.0),
        "backward": (backward, 1.0),
        "input": (backward, 0.5),
        "weight": (backward, 0.5),
    }
    times = {(work, stage): each[stage] * part for work, (each, part) in parts.items() for stage in range(stages)}
    events = simulated(lists, times, transfers=cuts)  # type: ignore[arg-type]
    ends = [max(event.end for event in events if event.rank == rank) for rank in range(workers)]
    assert spans(form, forward, backward, cuts) == pytest.approx(ends)
    assert in_flight(form) == tuple(_held(lists[stage % workers], stage) for stage in range(stages))


def _held(actions: tuple, stage: int) -> int:
    """Most micro-batches of a stage that began and whose backward, both halves of it, is not done."""
    held, most = 0, 0
    for action in actions:
        if action.stage == stage and action.work == "forward":
            held += 1
            most = max(most, held)
        if action.stage == stage and action.work in ("backward", "weight"):
            held -= 1
    return most
