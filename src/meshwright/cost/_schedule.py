"""Who computes what when: the orders of a pipeline's schedules, and the time they take.

Every worker works through a list of its own: forwards, backwards and, where a backward is split, the gradients of
inputs and of weights apart. The lists are the same ones for the workers and for the prediction. Source: GPipe (Huang
et al. 2019), 1F1B (Narayanan et al. 2019, PipeDream-Flush), interleaved (Narayanan et al. 2021, section 2.2), zero
bubble (Qi et al. 2023, ZB-H1).
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from meshwright.cost._split import Schedule
from meshwright.errors import PlanError
from meshwright.units import Seconds

Work = Literal["forward", "backward", "input", "weight"]
WORKS: tuple[Work, ...] = ("forward", "backward", "input", "weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """One piece of a worker's work.

    Args:
        work: `backward` is both halves; `input` sends the gradients on, `weight` is done later, when there is time.
        stage: of the model.
        micro_batch: number in the step.
    """

    work: Work
    stage: int
    micro_batch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StageEvent:
    """An action and when it was done, or will be.

    Args:
        rank: the pipeline's worker.
        action: what.
        start: from the step's beginning (s).
        end: likewise (s).
    """

    rank: int
    action: Action
    start: Seconds
    end: Seconds


def check_schedule(schedule: Schedule, *, num_workers: int, num_stages: int) -> None:
    """Whether a schedule can drive so many stages.

    Raises:
        PlanError: it cannot; says which numbers of stages it takes.
    """
    if num_stages < num_workers or num_stages % num_workers:
        raise PlanError(
            f"{num_stages} stages cannot be shared out among {num_workers} workers",
            cause="every worker of a pipeline has equally many stages",
            alternatives=[f"{max(1, round(num_stages / num_workers)) * num_workers} stages"],
        )
    if schedule in ("1f1b", "asynchronous") and num_stages != num_workers:
        raise PlanError(
            f"schedule {schedule} has one stage per worker, but there are {num_stages} stages on {num_workers} workers",
            alternatives=["--set schedule=interleaved", "--set schedule=zero_bubble", f"{num_workers} stages"],
        )


def orders(
    schedule: Schedule, *, num_workers: int, num_stages: int, num_micro_batches: int
) -> tuple[tuple[Action, ...], ...]:
    """What each worker does, in order; stage `i` belongs to worker `i % num_workers`.

    Micro-batches pass through a worker's stages in rounds of about `num_workers`, the first rounds being the longer
    ones where they cannot be equal.

    Raises:
        PlanError: the schedule cannot drive so many stages.
    """
    numbered = numbered_orders(
        schedule, num_workers=num_workers, num_stages=num_stages, num_micro_batches=num_micro_batches
    )
    return tuple(
        tuple(
            Action(
                work=WORKS[number // num_micro_batches // num_stages], stage=number // num_micro_batches % num_stages,
                micro_batch=number % num_micro_batches,
            )
            for number in numbers
        )
        for numbers in numbered
    )  # fmt: skip


def numbered_orders(
    schedule: Schedule, *, num_workers: int, num_stages: int, num_micro_batches: int
) -> tuple[list[int], ...]:
    """The same with a number for each action: (place in `WORKS` × stages + stage) × micro-batches + micro-batch.

    Raises:
        PlanError: the schedule cannot drive so many stages.
    """
    check_schedule(schedule, num_workers=num_workers, num_stages=num_stages)
    num_rounds = max(1, num_micro_batches // num_workers) if schedule != "gpipe" else 1
    ends = [(num_micro_batches * number + num_rounds - 1) // num_rounds for number in range(num_rounds + 1)]
    rounds = [range(low, high) for low, high in itertools.pairwise(ends)]
    return tuple(
        _order(schedule, rank, num_workers, range(rank, num_stages, num_workers), rounds) for rank in range(num_workers)
    )


def _order(schedule: Schedule, rank: int, num_workers: int, stages: range, rounds: Sequence[range]) -> list[int]:
    split = schedule == "zero_bubble"
    num_stages, count = num_workers * len(stages), rounds[-1].stop
    first = WORKS.index("input" if split else "backward") * num_stages
    forwards = [stage * count + number for numbers in rounds for stage in stages for number in numbers]
    backwards = [
        (first + stage) * count + number for numbers in rounds for stage in reversed(stages) for number in numbers
    ]
    if schedule == "gpipe":
        return [*forwards, *backwards]
    hops = num_workers - 1 - rank
    ahead = (len(stages) - 1) * len(rounds[0]) + (2 * hops if schedule == "interleaved" else hops)
    later = (WORKS.index("weight") - WORKS.index("input")) * num_stages * count
    weights = [number + later for number in backwards] if split else []
    return _alternating(forwards, backwards, weights, ahead=min(ahead, len(forwards)), delay=rank)


def _alternating(
    forwards: Sequence[int], backwards: Sequence[int], weights: Sequence[int], *, ahead: int, delay: int
) -> list[int]:
    """Some forwards ahead, then a forward and a backward in turn, then the backwards that are left.

    Args:
        weights: the backwards' other halves; empty where backwards are whole.
        ahead: forwards before the first backward.
        delay: by how many backwards the weights' half lags behind.
    """
    order = list(forwards[:ahead])
    for number, backward in enumerate(backwards):
        order += forwards[ahead + number : ahead + number + 1]
        order.append(backward)
        if weights and number >= delay:
            order.append(weights[number - delay])
    if delay:
        order += weights[max(0, len(weights) - delay) :]
    return order


def needs(action: Action, *, num_stages: int, split: bool) -> Action | None:
    """The action of a neighbouring stage whose result an action waits for; None where it waits for none.

    Args:
        action: which.
        num_stages: of the pipeline.
        split: whether backwards are in halves.
    """
    if action.work == "forward" and action.stage > 0:
        return Action(work="forward", stage=action.stage - 1, micro_batch=action.micro_batch)
    if action.work in ("backward", "input") and action.stage < num_stages - 1:
        return Action(work="input" if split else "backward", stage=action.stage + 1, micro_batch=action.micro_batch)
    return None


def simulated(
    lists: Sequence[Sequence[Action]],
    durations: Mapping[tuple[Work, int], Seconds],
    *,
    transfers: Sequence[Seconds] = (),
) -> tuple[StageEvent, ...]:
    """When every action is done, if each worker begins its next one as soon as what it waits for has arrived.

    Args:
        lists: of `orders`.
        durations: of a kind of work on a stage (s).
        transfers: time to carry a micro-batch's activations, or their gradients, over each cut (s); none: no time.

    Returns:
        The events by start, then by rank.
    """
    return replayed(lists, lambda action: durations[action.work, action.stage], transfers=transfers)


def replayed(
    lists: Sequence[Sequence[Action]],
    duration: Callable[[Action], Seconds],
    *,
    transfers: Sequence[Seconds] = (),
) -> tuple[StageEvent, ...]:
    """The same where every action has a time of its own.

    Args:
        lists: of `orders`.
        duration: of an action (s).
        transfers: as for `simulated`.

    Returns:
        The events by start, then by rank.
    """
    num_stages = 1 + max(action.stage for actions in lists for action in actions)
    split = any(action.work == "input" for actions in lists for action in actions)
    done: dict[Action, Seconds] = {}
    known = {action for actions in lists for action in actions}
    clocks, places = [0.0] * len(lists), [0] * len(lists)
    events: list[StageEvent] = []
    moved = True
    while moved:
        moved = False
        for rank, actions in enumerate(lists):
            while places[rank] < len(actions):
                action = actions[places[rank]]
                awaited = needs(action, num_stages=num_stages, split=split)
                if awaited not in known:
                    awaited = None  # it waits for nothing, or for what an earlier step has done
                if awaited is not None and awaited not in done:
                    break
                start = clocks[rank]
                if awaited is not None:
                    carried = transfers[min(action.stage, awaited.stage)] if transfers else 0.0
                    on_other = awaited.stage % len(lists) != rank
                    start = max(start, done[awaited] + (carried if on_other else 0.0))
                end = start + duration(action)
                done[action] = clocks[rank] = end
                events.append(StageEvent(rank=rank, action=action, start=start, end=end))
                places[rank] += 1
                moved = True
    assert all(place == len(actions) for place, actions in zip(places, lists, strict=True)), places
    return tuple(sorted(events, key=lambda event: (event.start, event.end, event.rank)))


def bubble(events: Sequence[StageEvent]) -> float:
    """Share of the workers' time in which they wait (0 to 1)."""
    span = max(event.end for event in events) - min(event.start for event in events)
    num_workers = 1 + max(event.rank for event in events)
    return 1.0 - sum(event.end - event.start for event in events) / (span * num_workers)


def balanced_bubble(schedule: Schedule, *, num_workers: int, num_stages: int, num_micro_batches: int) -> float:
    r"""The bubble of equal stages without transfers, a backward being twice a forward.

    With p workers, v stages on each and m micro-batches: $(p-1)/(m+p-1)$ for GPipe and 1F1B, $(p-1)/(vm+p-1)$
    interleaved; halves of a backward fill it down to $(p-1)/(3m+p-1)$.
    """
    lists = orders(schedule, num_workers=num_workers, num_stages=num_stages, num_micro_batches=num_micro_batches)
    times: dict[Work, Seconds] = {"forward": 1.0, "backward": 2.0, "input": 1.0, "weight": 1.0}
    return bubble(simulated(lists, {(work, stage): times[work] for work in times for stage in range(num_stages)}))
