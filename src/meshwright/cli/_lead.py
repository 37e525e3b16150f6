"""A run as its first host or task leads it, and as the others join it."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from meshwright.cli._session import find_cluster, find_plan, recorded_values
from meshwright.cli._settings import Settings
from meshwright.cost import Measurement
from meshwright.documents import write_toml
from meshwright.errors import MeshwrightError
from meshwright.hardware import Cluster
from meshwright.launch import (
    Hosts,
    Progress,
    RunFolder,
    Task,
    Value,
    announce_failure,
    answer_link,
    await_start,
    create_run_folder,
    join_run,
    run_script,
    sum_up,
    with_link,
    write_record,
)
from meshwright.plan import Plan
from meshwright.units import format_seconds


def lead(
    script: Path,
    arguments: Sequence[str],
    *,
    folder: RunFolder,
    where: Hosts | Task,
    settings: Settings,
    progress: Progress,
) -> tuple[Plan, Measurement]:
    """Plans and runs; whatever happens, the folder says how it ended.

    Args:
        script: the user's script.
        arguments: its own arguments.
        folder: the run's.
        where: all hosts, or this Slurm task.
        settings: what was asked.
        progress: shows what is done.

    Raises:
        MeshwrightError: planning or a worker failed.
        KeyboardInterrupt: Ctrl-C while planning.
    """
    settings = with_task(settings, where) if isinstance(where, Task) else settings
    record(folder, script, arguments, settings=settings)
    cluster, plan = _prepare(script, arguments, folder=folder, where=where, settings=settings, progress=progress)
    record(folder, script, arguments, settings=settings, plan=plan)
    progress.status.say(
        f"plan: {plan.strategy.summary}; {format_seconds(plan.prediction.time.step)} per step expected ({folder.plan})"
    )
    for construct in plan.uncaptured:
        progress.status.say(f"not captured whole: {construct}")
    measurement = run_script(
        script,
        arguments,
        plan=plan,
        goal=settings.goal,
        cluster=cluster,
        folder=folder,
        progress=progress,
        where=where,
    )
    return plan, measurement


def _prepare(
    script: Path,
    arguments: Sequence[str],
    *,
    folder: RunFolder,
    where: Hosts | Task,
    settings: Settings,
    progress: Progress,
) -> tuple[Cluster, Plan]:
    """The hardware and the plan; where there is none, the folder and the other tasks are told."""
    try:
        num_hosts = where.num_hosts if isinstance(where, Task) else where.count
        cluster = find_cluster(settings, progress=progress, num_hosts=num_hosts)
        if isinstance(where, Hosts) and where.count > 1:
            planned = settings.plan is not None
            cluster = with_link(cluster, where, folder=folder, progress=progress, planned=planned)
        plan = find_plan(
            script,
            arguments,
            settings=settings,
            cluster=cluster,
            folder=folder.planning.path,
            progress=progress,
            reference_steps=settings.reference,
        )
    except MeshwrightError as error:
        progress.close()
        sum_up(folder, status="failed", reason=error.fact)
        if isinstance(where, Task):
            announce_failure(error, folder=folder)
        raise
    except KeyboardInterrupt:
        progress.close()
        sum_up(folder, status="interrupted", reason="Ctrl-C or SIGTERM while planning")
        raise
    planning = folder.planning
    for made, place in ((planning.graph, folder.graph), (planning.reference, folder.reference)):
        if made.is_file():
            made.replace(place)
    return cluster, plan


def join_host(script: Path, arguments: Sequence[str], *, settings: Settings, progress: Progress) -> str:
    """This host's part of a run that host 0 leads; returns how it ended."""
    folder = create_run_folder(script, output=settings.output)
    record(folder, script, arguments, settings=settings)
    write_toml(settings.goal, folder.goal)
    progress.status.announce(
        f"host {settings.hosts.rank} of {settings.hosts.count}: waiting for the plan of {settings.hosts.address}"
    )
    answer_link(settings.hosts, folder=folder, progress=progress)
    return join_run(script, arguments, folder=folder, progress=progress, where=settings.hosts)


def join_task(script: Path, arguments: Sequence[str], *, task: Task, settings: Settings, progress: Progress) -> str:
    """This Slurm task's part of a run that task 0 leads; returns how it ended."""
    folder = RunFolder(path=settings.output / task_folder(script, task))
    started = await_start(task, folder=folder, limit=settings.planning_limit)
    return join_run(script, arguments, folder=folder, progress=progress, where=started)


def task_folder(script: Path, task: Task) -> str:
    """The name of the folder that the tasks of a Slurm step share."""
    return f"{script.stem}-{task.name}"


def with_task(settings: Settings, task: Task) -> Settings:
    """Settings in which Slurm has decided the number of workers."""
    pins = replace(settings.goal.pins, workers=task.num_tasks)
    values = {
        **settings.values,
        "workers": Value(value=task.num_tasks, origin="environment"),
        "task": Value(value=task.name, origin="environment"),
    }
    return replace(settings, goal=replace(settings.goal, pins=pins), values=values)


def record(
    folder: RunFolder, script: Path, arguments: Sequence[str], *, settings: Settings, plan: Plan | None = None
) -> None:
    """Writes `run.toml` with what is known by now."""
    values = recorded_values(settings, plan=plan)
    write_record(folder, script=script, arguments=arguments, values=values, command=sys.argv)
