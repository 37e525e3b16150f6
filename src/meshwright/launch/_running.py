"""The workers of a run, from their start to the run in sum."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from meshwright.cost import Measurement
from meshwright.documents import write_toml
from meshwright.errors import MeshwrightError
from meshwright.hardware import Cluster, LoadMeter, write_cluster
from meshwright.launch._agent_job import AgentJob
from meshwright.launch._ending import remember, sum_up
from meshwright.launch._environment import Role, free_port, place, worker_environment
from meshwright.launch._failure import agent_failure, failure
from meshwright.launch._hosts import LOCAL_ADDRESS, ONE_HOST, Hosts
from meshwright.launch._interrupt import Interrupts
from meshwright.launch._processes import Processes
from meshwright.launch._progress import Progress
from meshwright.launch._run_folder import RunFolder
from meshwright.launch._slurm import Task
from meshwright.launch._slurm_start import announce_start
from meshwright.launch._watch import Ending, watch
from meshwright.plan import Goal, Plan, write_plan

AGENT = -1


def run_script(
    script: Path,
    arguments: Sequence[str] = (),
    *,
    plan: Plan,
    goal: Goal,
    cluster: Cluster,
    folder: RunFolder,
    progress: Progress,
    where: Hosts | Task = ONE_HOST,
) -> Measurement:
    """Runs a script under a plan until it has ended; on several hosts, this is host 0 or task 0.

    Args:
        script: the user's script.
        arguments: its own arguments.
        plan: what the workers follow.
        goal: what was asked of it.
        cluster: what it was made for.
        folder: the run's.
        progress: shows the script's output and the steps.
        where: all hosts and this one's place, or this Slurm task's.

    Returns:
        The run in sum; its status is `interrupted` after Ctrl-C.

    Raises:
        MeshwrightError: a worker failed; the run's folder is whole all the same.
    """
    write_inputs(folder, plan=plan, goal=goal, cluster=cluster)
    where = announce_start(where, folder=folder) if isinstance(where, Task) else where
    progress.follow(folder, num_steps=goal.steps)
    num_workers, meter = plan.strategy.num_workers, LoadMeter()
    try:
        ending = work("run", script, arguments, folder=folder, progress=progress, num_workers=num_workers, where=where)
    except MeshwrightError as error:
        sum_up(folder, status="failed", reason=error.fact)
        raise
    load = meter.read()
    measurement = sum_up(folder, status=ending, reason="Ctrl-C or SIGTERM" if ending == "interrupted" else "")
    remember(plan, measurement, cluster=cluster, load=load)
    return measurement


def join_run(
    script: Path, arguments: Sequence[str] = (), *, folder: RunFolder, progress: Progress, where: Hosts | Task
) -> Ending:
    """Runs the part of another host, or of another Slurm task, in a run that host or task 0 leads.

    Args:
        script: the user's script.
        arguments: its own arguments.
        folder: this host's, or the one that the tasks share.
        progress: shows the state.
        where: this host's or task's place.

    Raises:
        MeshwrightError: a worker of this host failed.
    """
    return work("run", script, arguments, folder=folder, progress=progress, num_workers=0, where=where)


def write_inputs(folder: RunFolder, *, plan: Plan, goal: Goal, cluster: Cluster) -> None:
    """Writes what the workers read."""
    write_plan(plan, folder.plan)
    write_toml(goal, folder.goal)
    write_cluster(cluster, folder.cluster)


def work(
    role: Role,
    script: Path,
    arguments: Sequence[str],
    *,
    folder: RunFolder,
    progress: Progress,
    num_workers: int,
    where: Hosts | Task = ONE_HOST,
    steps: int = 0,
) -> Ending:
    """Starts this host's workers, whose inputs lie in the folder, and waits until all have ended.

    One worker is started as it is; several are started by torch's agent, which ends all of them when one dies.

    Args:
        role: what the workers are for.
        script: the user's script.
        arguments: its own arguments.
        folder: where they read and write.
        progress: refreshed while they work.
        num_workers: of all hosts; 0 where only host 0 knows.
        where: this host's or task's place.
        steps: to compare, for `verify`.

    Raises:
        MeshwrightError: a worker failed.
    """
    environment = worker_environment(
        role, folder=folder.path, goal=folder.goal, cluster=folder.cluster, plan=folder.plan, steps=steps
    )
    if isinstance(where, Hosts) and where.count == 1 and num_workers == 1:
        where = _only_task()
    with Interrupts() as interrupts, Processes() as processes:
        if isinstance(where, Task):
            command = [sys.executable, "-m", "meshwright.run.worker", str(script), *arguments]
            _start_worker(processes, command, environment, folder=folder, task=where)
        else:
            job = AgentJob(script=str(script), arguments=tuple(arguments), folder=folder.path.resolve(), hosts=where)
            _start_agent(processes, job, environment, folder=folder)
        watched = watch(processes, interrupts=interrupts, refresh=progress.refresh)
    progress.close()
    if watched.ending == "failed":
        blame = failure if isinstance(where, Task) else agent_failure
        alone = shlex.join(["python", str(script), *arguments])
        raise blame(watched.failures, folder=folder, command=alone, shown=progress.rank)
    return watched.ending


def _start_agent(processes: Processes, job: AgentJob, environment: Mapping[str, str], *, folder: RunFolder) -> None:
    """Starts torch's agent of this host."""
    write_toml(job, folder.agent_job)
    processes.start(
        AGENT,
        [sys.executable, "-m", "meshwright.launch.agent", str(folder.agent_job)],
        environment=environment,
        out=folder.agent_log("out"),
        err=folder.agent_log("err"),
    )


def _start_worker(
    processes: Processes, command: Sequence[str], environment: Mapping[str, str], *, folder: RunFolder, task: Task
) -> None:
    where = place(
        task.rank, world_size=task.num_tasks, address=task.address, port=task.port, local_rank=task.local_rank
    )
    processes.start(
        task.rank,
        command,
        environment={**environment, **where},
        out=folder.log(task.rank, "out"),
        err=folder.log(task.rank, "err"),
    )


def _only_task() -> Task:
    return Task(rank=0, num_tasks=1, local_rank=0, num_hosts=1, address=LOCAL_ADDRESS, port=free_port(), name="local")
