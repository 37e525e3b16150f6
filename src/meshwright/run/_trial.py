"""The best few strategies tried for real, in the planning processes, before one is chosen.

Rank 0 runs the user's script, prices strategies and leads. The other ranks wait, asleep, until the leader calls them;
then they run the script up to its first step too, so that a strategy of several workers runs in several processes at
once, as it would. While one worker is tried alone, the others sleep in a collective.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from meshwright.cost import Strategy
from meshwright.plan import TrialResult, spans_hosts
from meshwright.run._group import meet, part
from meshwright.run._heat import load_all, old_objects_set_aside, run_heat, together
from meshwright.run._job import Job
from meshwright.run._race import Heat, beside, race
from meshwright.run._role import Role, role_of
from meshwright.units import Seconds

_CALL = "trial"
_NAP: Seconds = 0.02
# A script whose first step comes later than this after the call holds up the plan; then one worker is tried only.
_PATIENCE: Seconds = 30.0
# A worker that is left alone in a heat gives up after this.
_HEAT_TIMEOUT = timedelta(seconds=30)

_Groups = dict[int, dist.ProcessGroup | None]


@dataclass(frozen=True, slots=True)
class LateRival:
    """A strategy that is tried last, and the index of the tried one that it is set against."""

    strategy: Strategy
    against: int


def serve(run_script: Callable[[], None]) -> None:
    """What a rank above 0 does in the planning process: waits to be called, then runs the script into `follow`.

    Args:
        run_script: runs the user's script.
    """
    role = role_of(os.environ)
    assert role.folder is not None
    load_all()
    while not (role.folder / _CALL).exists():
        time.sleep(_NAP)
    run_script()


def summon(role: Role) -> None:
    """Calls the other ranks; the earlier, the sooner they are ready."""
    if role.folder is not None and role.world_size > 1:
        (role.folder / _CALL).touch()


# What a late rival races for beside its start, with the best of the others (s).
_LATE_BUDGET: Seconds = 4.0


def trial(
    job: Job,
    batch: Any,
    strategies: Sequence[Strategy],
    *,
    budget: Seconds,
    has_room: Callable[[int], bool] = lambda _: True,
    late: Callable[[dict[int, TrialResult]], LateRival | None] = lambda _: None,
) -> dict[int, TrialResult]:
    """Races strategies on copies of the job, with the real step engine.

    Compiled strategies are not tried, because compiling alone takes longer than the budget; nor are those that need
    more processes than there are, processes that do not come in time, or several hosts.

    Args:
        job: of the leader; left as it is, as are the generators of random numbers.
        batch: a global batch.
        strategies: the most promising first.
        budget: for all heats together (s).
        has_room: whether there is memory for a strategy, by its index, beside the jobs that are copied for it.
        late: a strategy that takes long to start, to be set against one that was tried, whatever that takes.

    Returns:
        Results by index into `strategies`; the untried are missing. A strategy that raised has its `failure`. The late
        rival's index is behind the last.
    """
    load_all()
    met = dist.is_initialized()
    world_size = _gather(strategies)
    tried = [index for index, strategy in enumerate(strategies) if _is_tried(strategy, world_size) and has_room(index)]
    crew = _Crew(job, batch, [strategies[index] for index in tried], world_size=world_size)
    try:
        with old_objects_set_aside():
            raced = race(len(tried), lambda place, length: crew.heat(strategies[tried[place]], length), budget=budget)
            results = {tried[place]: result for place, result in raced.items()}
            if (rival := late(results)) is not None:
                pair = (strategies[rival.against], rival.strategy)
                late_race = race(2, lambda place, length: crew.heat(pair[place], length), budget=_LATE_BUDGET)
                results[len(strategies)] = beside(results[rival.against], late_race)
    finally:
        crew.dismiss()
        if not met:
            part()
    return results


def follow(job: Job, batch: Any) -> None:
    """What a rank above 0 does at its first step: its part of every heat, until the leader ends the trial.

    Args:
        job: of this rank; left as it is.
        batch: its first global batch.
    """
    role = role_of(os.environ)
    met = dist.is_initialized()
    load_all()
    if not met:
        assert role.folder is not None
        _ready(role.folder, role.rank).touch()
        meet(role)
    strategies, known = _said(None)
    job = replace(job, **known)
    groups = _groups(strategies, dist.get_world_size())
    # Where a rank is lost in a heat, the leader goes on alone, and there is nothing left to follow.
    with old_objects_set_aside(), suppress(RuntimeError):
        while (order := _said(None)) is not None:
            strategy, duration = order
            _run_part(job, batch, strategy, groups, duration)
    if not met:
        part()


def _run_part(job: Job, batch: Any, strategy: Strategy, groups: _Groups, duration: Seconds) -> Heat:
    """This rank's part of a heat, where it has one."""
    group, rank = groups[strategy.num_workers], dist.get_rank()
    if rank >= strategy.num_workers:
        return Heat()
    return together(run_heat(job, batch, strategy, rank=rank, group=group, duration=duration), group)


class _Crew:
    """The leader's side: runs heats, alone or together with the ranks that follow.

    Args:
        job: to be copied for each heat.
        batch: a global batch.
        strategies: those that can be run, for their numbers of workers.
        world_size: processes there are; 1: nobody follows.
    """

    def __init__(self, job: Job, batch: Any, strategies: Sequence[Strategy], *, world_size: int) -> None:
        self._job = job
        self._batch = batch
        self._follows = world_size > 1
        self._lost = ""
        self._groups: _Groups = {1: None}
        if self._follows:
            # What the leader knows of the job from its capture and its command line.
            _said((list(strategies), {"blocks": job.blocks, "allow": job.allow}))
            self._groups = _groups(strategies, world_size)

    def heat(self, strategy: Strategy, duration: Seconds) -> Heat:
        """Runs a strategy for about so long; every worker of it."""
        group = self._groups[strategy.num_workers]
        if group is not None and self._lost:
            return Heat(failure=self._lost)
        try:
            if group is not None:
                _said((strategy, duration))
            own = run_heat(self._job, self._batch, strategy, rank=0, group=group, duration=duration)
            return together(own, group)
        except RuntimeError as error:
            # A rank that died or hung: what needs it cannot be tried any more, what one worker does can.
            self._lost = f"a trial worker was lost: {str(error).splitlines()[0]}"
            return Heat(failure=self._lost)

    def dismiss(self) -> None:
        """Ends the trial in every rank."""
        if self._follows and not self._lost:
            _said(None)


def _gather(strategies: Sequence[Strategy]) -> int:
    """Meets the other ranks where a strategy needs them and they come in time; returns how many processes there are."""
    if dist.is_initialized():
        return dist.get_world_size()
    role = role_of(os.environ)
    wanted = max((strategy.num_workers for strategy in strategies), default=1)
    if wanted == 1 or role.kind != "plan" or role.world_size < wanted or role.folder is None:
        return 1
    summon(role)
    deadline = time.monotonic() + _PATIENCE
    while not all(_ready(role.folder, rank).exists() for rank in range(1, role.world_size)):
        if time.monotonic() > deadline:
            return 1
        time.sleep(_NAP)
    meet(role)
    return role.world_size


def _is_tried(strategy: Strategy, world_size: int) -> bool:
    return strategy.num_workers <= world_size and not strategy.kernels.compiled and not spans_hosts(strategy)


def _groups(strategies: Sequence[Strategy], world_size: int) -> _Groups:
    """A process group for every number of workers; made by all ranks in the same order."""
    counts = sorted({strategy.num_workers for strategy in strategies} - {1})
    assert not counts or counts[-1] <= world_size
    groups: _Groups = {1: None}
    for count in counts:
        group = dist.new_group(list(range(count)), timeout=_HEAT_TIMEOUT)
        groups[count] = group if isinstance(group, dist.ProcessGroup) else None
    return groups


def _said(order: Any) -> Any:
    """What the leader says to all ranks; a rank that listens sleeps until it comes."""
    message = [order]
    dist.broadcast_object_list(message, src=0)
    return message[0]


def _ready(folder: Path, rank: int) -> Path:
    return folder / f"{_CALL}-{rank}"
