"""How long a pipeline takes for its micro-batches, and how many of them each stage has under way.

The orders of `_schedule` are run through once in rank-independent order: a list of numbers instead of actions, so that
a search can afford it thousands of times. Long steps are simulated for a few rounds and continued at their steady pace.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from meshwright.cost._schedule import WORKS, numbered_orders
from meshwright.cost._split import Schedule
from meshwright.cost.hybrid._waves import Index, Waves, waves_of
from meshwright.units import Seconds

# Rounds of as many micro-batches as workers that are simulated; from then on every round is like the last one.
_ROUNDS = 3
_MOST_ACTIONS = 2048  # of all workers in these rounds; larger pipelines are simulated for one round
_WIDE = 16  # workers from which on columns are faster than one action after another


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """What a pipeline's timing depends on besides durations.

    Args:
        schedule: order of work.
        num_workers: of the pipeline.
        num_stages: over all of them.
        micro_batches: in a step.
    """

    schedule: Schedule
    num_workers: int
    num_stages: int
    micro_batches: int


@dataclass(frozen=True, slots=True)
class Script:
    """A form's actions in an order in which each follows what it waits for.

    Args:
        ranks: worker of each action.
        works: stage of a forward, number of stages + stage of a backward, and so on for input and weight halves.
        awaited: index of the action waited for, -1 where there is none.
        cuts: which cut the awaited result crosses, -1 where it stays on the worker.
    """

    ranks: list[int]
    works: list[int]
    awaited: list[int]
    cuts: list[int]


def spans(
    form: Form, forward: Sequence[Seconds], backward: Sequence[Seconds], transfers: Sequence[Seconds]
) -> tuple[Seconds, ...]:
    """When each worker has done all its work (s).

    Args:
        forward: of a micro-batch on every stage (s).
        backward: likewise, recomputation included (s).
        transfers: over every cut (s).
    """
    if form.num_workers == 1:
        return (form.micro_batches * (sum(forward) + sum(backward)),)
    if form.schedule == "asynchronous":
        return _flowing(form, forward, backward, transfers)
    shown = simulated_micro_batches(form)
    first = _run(_cut_short(form, shown), forward, backward, transfers)
    if shown == form.micro_batches:
        return tuple(first)
    more = _run(_cut_short(form, shown + form.num_workers), forward, backward, transfers)
    rounds = (form.micro_batches - shown) / form.num_workers
    return tuple(end + (later - end) * rounds for end, later in zip(first, more, strict=True))


def _flowing(
    form: Form, forward: Sequence[Seconds], backward: Sequence[Seconds], transfers: Sequence[Seconds]
) -> tuple[Seconds, ...]:
    """Every worker has backwards left from the step before, and begins once the first forward has come to it."""
    starts = accumulate(map(sum, zip(forward, transfers, strict=False)), initial=0.0)
    works = (form.micro_batches * (ahead + back) for ahead, back in zip(forward, backward, strict=True))
    return tuple(start + work for start, work in zip(starts, works, strict=False))


def simulated_micro_batches(form: Form) -> int:
    """How many micro-batches are simulated: all, or a few rounds with the same remainder."""
    rounds, rest = divmod(form.micro_batches, form.num_workers)
    large = 2 * form.num_stages * form.num_workers * _ROUNDS > _MOST_ACTIONS
    shown = 1 if large else _ROUNDS
    return form.micro_batches if rounds <= shown + 1 else shown * form.num_workers + rest


@lru_cache(maxsize=4096)
def in_flight(form: Form) -> tuple[int, ...]:
    """Most micro-batches whose activations each stage holds at one time."""
    if form.num_workers == 1:
        return (1,) * form.num_stages
    if form.schedule == "gpipe":
        return (form.micro_batches,) * form.num_stages
    if form.schedule == "asynchronous":
        return tuple(range(form.num_stages, 0, -1))
    if form.num_stages == form.num_workers:
        return _with_one_stage(form)
    return tuple(np.ravel(_with_several_stages(form).T).tolist())


def _with_one_stage(form: Form) -> tuple[int, ...]:
    """As many as a worker goes ahead with before each is answered by a backward, whose late half does not matter."""
    shown = simulated_micro_batches(form)
    return tuple(min(shown, ahead + 1) for ahead in _ahead(form, shown, first=shown))


def _with_several_stages(form: Form) -> Index:
    """Counted along each worker's order of work (`_schedule`; `workers chunks`)."""
    workers, shown = form.num_workers, simulated_micro_batches(form)
    chunks = np.arange(form.num_stages // workers)
    num_rounds = max(1, shown // workers)
    sizes = np.diff([(shown * number + num_rounds - 1) // num_rounds for number in range(num_rounds + 1)])
    there = np.concatenate([np.repeat(chunks, size) for size in sizes])
    back = np.concatenate([np.repeat(chunks[::-1], size) for size in sizes])
    begun = np.cumsum(there[:, None] == chunks, axis=0)
    done = np.vstack((np.zeros_like(chunks), np.cumsum(back[:, None] == chunks, axis=0)))
    found = []
    for ahead in _ahead(form, len(there), first=int(sizes[0])):
        before = min(ahead, len(there) - 1)
        found.append(np.max(begun[before:] - done[: len(there) - before], axis=0))
    return np.array(found)


def _ahead(form: Form, forwards: int, *, first: int) -> list[int]:
    """How many forwards each worker does before it has done its first backward whole.

    Args:
        forwards: of all its stages.
        first: micro-batches of the first round.
    """
    hops = (2 if form.schedule == "interleaved" else 1) * np.arange(form.num_workers - 1, -1, -1)
    ahead = np.minimum(forwards, (form.num_stages // form.num_workers - 1) * first + hops)
    return (ahead + (np.arange(form.num_workers) if form.schedule == "zero_bubble" else 0)).tolist()


def _cut_short(form: Form, micro_batches: int) -> Form:
    return Form(
        schedule=form.schedule, num_workers=form.num_workers, num_stages=form.num_stages, micro_batches=micro_batches
    )


@lru_cache(maxsize=256)
def _script(form: Form) -> Script:
    """The actions of all workers, merged so that each comes after what it waits for."""
    lists = _numbered(form)
    awaited = [tuple(one.tolist() for one in _awaited(form, rank, np.array(own))) for rank, own in enumerate(lists)]
    done = [-1] * (len(WORKS) * form.num_stages * form.micro_batches)
    script = Script([], [], [], [])
    places = [0] * len(lists)
    left = sum(map(len, lists))
    while left:
        for rank, (numbers, (before, cuts)) in enumerate(zip(lists, awaited, strict=True)):
            first = place = places[rank]
            while place < len(numbers) and (before[place] < 0 or done[before[place]] >= 0):
                done[numbers[place]] = len(script.awaited)
                script.awaited.append(done[before[place]] if before[place] >= 0 else -1)
                place += 1
            script.ranks.extend([rank] * (place - first))
            script.works.extend(number // form.micro_batches for number in numbers[first:place])
            script.cuts.extend(cuts[first:place])
            places[rank] = place
            left -= place - first
    return script


@lru_cache(maxsize=64)
def _waves(form: Form) -> Waves:
    numbers = np.array(_numbered(form))
    awaited, cuts = _awaited(form, np.arange(form.num_workers)[:, None], numbers)
    return waves_of(numbers, awaited, cuts)


def _numbered(form: Form) -> tuple[list[int], ...]:
    return numbered_orders(
        form.schedule, num_workers=form.num_workers, num_stages=form.num_stages, num_micro_batches=form.micro_batches
    )  # fmt: skip


def _awaited(form: Form, rank: int | Index, numbers: Index) -> tuple[Index, Index]:
    """What each of workers' numbered actions waits for, -1 for nothing, and the cut that it crosses (as `needs`)."""
    work, stage = np.divmod(numbers // form.micro_batches, form.num_stages)
    forward, weight = WORKS.index("forward"), WORKS.index("weight")
    step = np.where(work == forward, -1, 1)
    other = stage + step
    there = (work != weight) & (other >= 0) & (other < form.num_stages)
    crossed = there & (other % form.num_workers != rank)
    before = np.where(there, numbers + step * form.micro_batches, -1)
    return before, np.where(crossed, np.minimum(stage, other), -1)


def _run(
    form: Form, forward: Sequence[Seconds], backward: Sequence[Seconds], transfers: Sequence[Seconds]
) -> list[Seconds]:  # fmt: skip
    halves = [duration / 2 for duration in backward]
    durations = [*forward, *backward, *halves, *halves]
    carried = [*transfers, 0.0]
    if form.num_workers >= _WIDE:
        waves = _waves(form)
        return waves.ends(np.array(durations)[waves.numbers // form.micro_batches], carried)
    script = _script(form)
    clocks = [0.0] * form.num_workers
    ends: list[float] = []
    append = ends.append
    for rank, work, awaited, cut in zip(script.ranks, script.works, script.awaited, script.cuts, strict=True):
        start = clocks[rank]
        if awaited >= 0:
            arrived = ends[awaited] + carried[cut]
            start = max(start, arrived)
        end = start + durations[work]
        clocks[rank] = end
        append(end)
    return clocks


def by_rank(values: NDArray[np.float64], num_workers: int) -> NDArray[np.float64]:
    """Sums over the stages of each worker of a pipeline."""
    return values.reshape(-1, num_workers).sum(axis=0)
