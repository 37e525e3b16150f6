"""The planning process: the script's first batch is captured, priced and tried, and the script ends there."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import psutil
import torch.distributed as dist

from meshwright import hardware
from meshwright.cost import Allowance, Prediction, Strategy, TimeBreakdown
from meshwright.documents import from_mapping, read_toml, to_mapping, write_toml
from meshwright.errors import MeshwrightError, from_json, to_json
from meshwright.graph import Graph, write_graph
from meshwright.graph.capture import capture
from meshwright.graph.capture_batch import batch_bytes
from meshwright.hardware import Cluster, LoadMeter, read_cluster
from meshwright.plan import (
    USUAL_ORDER_PIN,
    Goal,
    Pins,
    Plan,
    Priced,
    Shortlist,
    TrialResult,
    check_deadline,
    choose,
    compiled_rival,
    is_elsewhere,
    plan_outright,
    shortlist,
    target_of,
    winner,
    write_plan,
)
from meshwright.run._experience import Experience
from meshwright.run._job import Job
from meshwright.run._program_splits import with_pinned_splits, with_tensor_axis
from meshwright.run._role import Role, role_of
from meshwright.run._split_plan import is_priced_only, plan_by_model, settled, with_programs
from meshwright.units import Bytes, Seconds

# From the start of the process; a trial's last heats and the choice come on top, and the whole stays under 10 s.
PLANNING_TIME: Seconds = 6.6
_SHORTEST_TRIAL: Seconds = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanningTimes:
    """Where the time of planning went: `planning.toml` (s).

    Args:
        capture: what a step does.
        price: every strategy.
        trial: the best few, run.
        total: with reading and writing.
    """

    capture: Seconds
    price: Seconds
    trial: Seconds
    total: Seconds


def plan_first(
    job: Job,
    batch: Any,
    role: Role,
    *,
    pins: Pins,
    allow: tuple[Allowance, ...],
    given: Plan | None,
    loop: str = "",
) -> int:
    """Makes the plan in the planning process and writes it.

    Args:
        job: what the user handed over.
        batch: the first global batch.
        role: where to read from and write to; ranks above 0 only help with the trial.
        pins: choices made in the script.
        allow: departures that the script permits.
        given: a whole plan from the script, taken as it is.
        loop: how the script takes its steps, where it does so itself.

    Returns:
        How many steps of the script as it is written are wanted for comparison. None where the one-device program was
        not seen to run here, or draws random numbers: a run draws others.

    Raises:
        SystemExit: on ranks above 0, at the end.
    """
    from meshwright.run import _trial

    if role.rank > 0:
        _trial.follow(job, batch)
        raise SystemExit(0)
    assert role.folder is not None
    progress = _Progress(role.folder)
    # the other planning processes, which load torch meanwhile, are children of the same launcher
    meter = LoadMeter(root=os.getppid())
    cluster = _cluster(role, progress)
    goal = merged_goal(read_toml(Goal, role.goal) if role.goal else Goal(), pins=pins, allow=allow)
    elsewhere = is_elsewhere(cluster)
    if given is None and goal.pins.workers != 1 and not elsewhere:
        _trial.summon(role)
    laps = [time.perf_counter()]
    cluster = with_context(cluster, context_of(job, batch))
    progress("capturing the step")
    graph = capture(job.model, job.optimizer, job.loss, batch)
    if given is None:
        graph = _with_program(job, batch, graph, cluster, goal.pins)
    write_graph(graph, role.folder / "graph.json")
    laps.append(time.perf_counter())
    job = replace(job, blocks=graph.block_paths, allow=goal.allow)
    plan, alone = given, False
    if plan is None and elsewhere:
        progress(f"searching plans of {graph.model} for {cluster.name}")
        plan = plan_outright(graph, cluster, goal)
    if plan is None:
        experience = Experience(graph=graph, cluster=cluster, loop=loop, load=meter.read)
        plan, alone = _planned(job, batch, experience, goal=goal, progress=progress, laps=laps)
        plan = replace(plan, kind=experience.kind(plan.strategy), load=meter.read())
        plan = replace(plan, target=target_of(goal, graph, plan.prediction))
        check_deadline(plan.target, goal)
        write_toml(_times(laps), role.folder / "planning.toml")
    plan = replace(plan, blocks=graph.block_paths, uncaptured=graph.gaps)
    write_plan(plan, role.folder / "plan.toml")
    return role.steps if alone and "random" not in graph.traits else 0


def _with_program(job: Job, batch: Any, graph: Graph, cluster: Cluster, pins: Pins) -> Graph:
    """The graph with what its program alone shows of its splits: any degree elsewhere, the pinned ones here."""
    if is_elsewhere(cluster):
        return with_tensor_axis(job, batch, graph, most=max(host.devices for host in cluster.hosts))
    return with_pinned_splits(job, batch, graph, pins)


def _planned(
    job: Job,
    batch: Any,
    experience: Experience,
    *,
    goal: Goal,
    progress: Callable[[str], None],
    laps: list[Seconds],
) -> tuple[Plan, bool]:
    """The plan, and whether a trial of one worker went well."""
    graph, cluster = experience.graph, experience.cluster
    progress(f"pricing strategies for {graph.model}")
    correction = experience.correction(goal.pins, basis="model")
    if is_priced_only(goal):
        plan = plan_by_model(job, batch, graph, cluster, goal, correction=correction)
        laps += [time.perf_counter()] * 2
        return plan, False
    listed = shortlist(graph, cluster, goal, correction=correction)
    listed, programs = with_programs(job, batch, listed)
    laps.append(time.perf_counter())
    progress(f"trying the best {len(listed.candidates)} of {listed.considered} strategies")

    def rival(trials: Mapping[int, TrialResult]) -> Priced | None:
        return compiled_rival(graph, cluster, goal, listed, trials, correction=correction)

    room = Room(cluster=cluster, size=_tensor_bytes(job), processes=role_of(os.environ).world_size)
    whole = {open_: found.strategy for open_, found in programs.items()}
    listed, trials = _tried(job, batch, listed, whole=whole, room=room, rival=rival, progress=progress)
    laps.append(time.perf_counter())
    plan = choose(graph, cluster, goal, listed, trials, correction=correction)
    if plan.strategy in programs:
        plan = settled(plan, programs[plan.strategy])
    alone = any(
        listed.candidates[place].strategy.num_workers == 1 and result.step > 0 for place, result in trials.items()
    )
    if plan.prediction.basis == "trial":
        trial = replace(experience.correction(goal.pins, basis="trial"), memory=correction.memory)
        corrections = {**plan.corrections, "trial": trial}
        plan = replace(plan, prediction=scaled(plan.prediction, trial.time), corrections=corrections)
    return plan, alone


def _tried(
    job: Job,
    batch: Any,
    listed: Shortlist,
    *,
    whole: Mapping[Strategy, Strategy],
    room: "Room",
    rival: Callable[[Mapping[int, TrialResult]], Priced | None],
    progress: Callable[[str], None],
) -> tuple[Shortlist, dict[int, TrialResult]]:
    """The trial's results by candidate; behind the shortlist's the compiled one, where there is time for it.

    Args:
        whole: split candidates with the placements and cuts that the program has.
        room: what memory there is for heats.
    """
    from meshwright.run import _trial

    added: list[Priced] = []

    def late(trials: dict[int, TrialResult]) -> _trial.LateRival | None:
        compiled = rival(trials)
        if compiled is None:
            return None
        progress("compiling the best one too: the run is long enough to find out what that brings")
        added.append(compiled)
        return _trial.LateRival(compiled.strategy, winner(listed, trials))

    strategies = [whole.get(candidate.strategy, candidate.strategy) for candidate in listed.candidates]
    trials = _trial.trial(
        job,
        batch,
        strategies,
        budget=trial_budget(),
        has_room=lambda index: room.holds(listed.candidates[index]),
        late=late,
    )
    return replace(listed, candidates=(*listed.candidates, *added)), trials


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """Memory of this host's processor for heats, in which every planning process has the job beside its copy.

    Args:
        cluster: this host, its memory what is available now.
        size: parameters and buffers of the job (B).
        processes: that plan.
    """

    cluster: Cluster
    size: Bytes
    processes: int

    def holds(self, item: Priced) -> bool:
        """Whether a strategy's workers fit beside the jobs."""
        device = self.cluster.hosts[0].device
        if item.strategy.workers[0].device != "cpu":
            return True
        beside = self.processes * (device.context + self.size)
        own = item.strategy.num_workers * (item.prediction.memory.peak - device.context)
        return beside + own <= device.memory


def trial_budget() -> Seconds:
    """What the start of the process and the capture leave of the time for planning; never less than two seconds."""
    elapsed = time.time() - psutil.Process().create_time()
    return max(_SHORTEST_TRIAL, PLANNING_TIME - elapsed)


def context_of(job: Job, batch: Any) -> Bytes:
    """Memory of this process besides the job's tensors: what its script imported, and torch itself (B).

    The probe measured a process that imports torch alone; a script that imports more takes more in every worker.
    """
    return psutil.Process().memory_info().rss - _tensor_bytes(job) - round(batch_bytes(batch))


def _tensor_bytes(job: Job) -> Bytes:
    """Parameters and buffers in this process's own memory (B)."""
    held = [*job.model.parameters(), *job.model.buffers()]
    return sum(tensor.nbytes for tensor in held if tensor.device.type == "cpu")


def with_context(cluster: Cluster, context: Bytes) -> Cluster:
    """The cluster whose processor workers take at least `context` before any tensor (B)."""
    hosts = tuple(
        replace(host, device=replace(host.device, context=max(host.device.context, context)))
        if host.device.kind == "cpu"
        else host
        for host in cluster.hosts
    )
    return replace(cluster, hosts=hosts)


def _times(laps: list[Seconds]) -> PlanningTimes:
    begun, captured, priced, tried = laps
    return PlanningTimes(
        capture=captured - begun, price=priced - captured, trial=tried - priced, total=time.perf_counter() - begun
    )


def scaled(prediction: Prediction, factor: float) -> Prediction:
    """A prediction whose times are multiplied by how much longer steps took in earlier runs than in their trials."""
    times = {item.name: getattr(prediction.time, item.name) * factor for item in fields(TimeBreakdown)}
    return replace(
        prediction,
        time=TimeBreakdown(**times),
        low=prediction.low * factor,
        high=prediction.high * factor,
        energy=prediction.energy * factor,
        money=prediction.money * factor,
    )


def plan_together(job: Job, batch: Any, role: Role, *, pins: Pins, allow: tuple[Allowance, ...]) -> Plan:
    """Makes a plan for the workers that there are: rank 0 does, and tells the others.

    Nothing is tried: the processes stand already, with the threads that their launcher gave them.

    Raises:
        MeshwrightError: what kept rank 0 from a plan; raised on every worker.
    """
    message: list[Any] = [None, None]
    if role.rank == 0:
        try:
            message[0] = to_mapping(_plan_for_world(job, batch, role, pins=pins, allow=allow))
        except MeshwrightError as error:
            message[1] = to_json(error)
    dist.broadcast_object_list(message, src=0)
    if message[1] is not None:
        raise from_json(message[1])
    return from_mapping(Plan, message[0], where="the plan of rank 0")


def merged_goal(goal: Goal, *, pins: Pins, allow: tuple[Allowance, ...]) -> Goal:
    """The goal of the command line over what the script asks: a pin of the command line wins, permissions add up."""
    both = {
        field.name: mine if (mine := getattr(goal.pins, field.name)) is not None else getattr(pins, field.name)
        for field in fields(Pins)
    }
    return replace(goal, pins=Pins(**both), allow=tuple(sorted({*goal.allow, *allow})))


def _plan_for_world(job: Job, batch: Any, role: Role, *, pins: Pins, allow: tuple[Allowance, ...]) -> Plan:
    cluster = _cluster(role, _say_nothing)
    goal = read_toml(Goal, role.goal) if role.goal else Goal()
    # processes that stand already have their ranks, which count as the usual order does
    pins = replace(pins, workers=role.world_size, order=pins.order or USUAL_ORDER_PIN)
    goal = merged_goal(goal, pins=pins, allow=allow)
    graph = _with_program(job, batch, capture(job.model, job.optimizer, job.loss, batch), cluster, goal.pins)
    experience = Experience(graph=graph, cluster=cluster, load=hardware.load_now)
    correction = experience.correction(goal.pins, basis="model")
    if is_priced_only(goal):
        return plan_by_model(job, batch, graph, cluster, goal, correction=correction)
    return choose(graph, cluster, goal, shortlist(graph, cluster, goal, correction=correction), correction=correction)


def _cluster(role: Role, progress: Any) -> Cluster:
    return read_cluster(role.cluster) if role.cluster else hardware.here(progress=progress)


def _say_nothing(_line: str) -> None:
    pass


class _Progress:
    """Says what the planning process is doing, in a file that the launcher shows."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "progress.txt"

    def __call__(self, line: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
