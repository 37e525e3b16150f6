"""Planning in throw-away processes: the script runs up to its first step, which is captured, priced and tried."""

import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from meshwright.documents import write_toml
from meshwright.errors import DocumentError, UsageError, WorkerError, suggestion
from meshwright.hardware import Cluster, identity, write_cluster
from meshwright.launch._environment import free_port, place, worker_environment
from meshwright.launch._failure import failure, last_lines
from meshwright.launch._interrupt import Interrupts
from meshwright.launch._log_tail import LineTail
from meshwright.launch._processes import Processes
from meshwright.launch._run_folder import RunFolder
from meshwright.launch._watch import Watched, watch
from meshwright.plan import Goal, Plan, read_plan
from meshwright.units import Seconds, format_seconds

PLANNING_LIMIT: Seconds = 600.0
SHARE_OF_MEMORY_FOR_CONTEXTS = 0.25


def plan_script(
    script: Path,
    arguments: Sequence[str] = (),
    *,
    goal: Goal,
    cluster: Cluster,
    folder: Path,
    progress: Callable[[str], None] = lambda _: None,
    limit: Seconds = PLANNING_LIMIT,
    reference_steps: int = 0,
) -> Plan:
    """Runs a script up to its first step in processes that are thrown away, and gives the plan made there.

    Args:
        script: the user's script.
        arguments: its own arguments.
        goal: what is asked of the plan.
        cluster: what there is to run on.
        folder: where `plan.toml`, `graph.json` and the processes' logs go.
        progress: told what is being done.
        limit: longest time (s).
        reference_steps: at most so many steps of the script as it is written, whose losses go to `reference.jsonl`.

    Raises:
        UsageError: no such script, or it ended without a step.
        MeshwrightError: whatever the script's step raised (`DoesNotFitError`, `LossError`, …).
        WorkerError: a process died, or the limit was passed.
        KeyboardInterrupt: Ctrl-C; every process has ended.
    """
    check_script(script)
    room = _scratch(folder)
    write_toml(goal, room.goal)
    write_cluster(cluster, room.cluster)
    environment = worker_environment(
        "plan", folder=room.path, goal=room.goal, cluster=room.cluster, steps=reference_steps
    )
    stages = LineTail(room.progress)
    progress(f"planning: running {script.name} up to its first step")
    with Interrupts() as interrupts, Processes() as processes:
        count, port = num_trial_workers(goal, cluster), free_port()
        for rank in range(count):
            processes.start(
                rank,
                [sys.executable, "-m", "meshwright.run.worker", str(script), *arguments],
                environment=environment | place(rank, world_size=count, address="127.0.0.1", port=port),
                out=room.log(rank, "out"),
                err=room.log(rank, "err"),
            )
        watched = watch(
            processes,
            interrupts=interrupts,
            refresh=lambda: _pass_on(stages, progress),
            leader=0,
            limit=limit,
        )
    stages.close()
    return _result(watched, script=script, arguments=arguments, room=room, limit=limit)


def check_script(script: Path) -> None:
    """Refuses a script that is not there, naming the nearest one that is.

    Raises:
        UsageError: no such file.
    """
    if script.is_file():
        return
    neighbours = [path.name for path in script.parent.glob("*.py")] if script.parent.is_dir() else []
    hint = suggestion(script.name, neighbours)
    raise UsageError(
        f"there is no script {script}" if not script.is_dir() else f"{script} is a folder, not a script",
        cause=hint or f"{script.parent} is no folder" if not script.parent.is_dir() else hint or "no such file",
        alternatives=[f"scripts there: {', '.join(sorted(neighbours)[:8])}"] if neighbours else [],
        command="meshwright run SCRIPT",
    )


def num_trial_workers(goal: Goal, cluster: Cluster) -> int:
    """Processes that planning starts: enough to try any plan of one host here, if this is the host.

    A process that waits still holds torch in memory, so that a host of many cores gets fewer.
    """
    if cluster.identity != identity():
        return 1
    host = cluster.hosts[0]
    slots = host.device.cores if host.device.kind == "cpu" else host.devices
    wanted = goal.pins.workers or slots
    affordable = int(SHARE_OF_MEMORY_FOR_CONTEXTS * host.device.memory / max(1, host.device.context))
    return max(1, min(wanted, max(affordable, 1) if host.device.kind == "cpu" else wanted))


def _pass_on(stages: LineTail, progress: Callable[[str], None]) -> None:
    for stage in stages.read()[-1:]:
        progress(f"planning: {stage}")


def _scratch(folder: Path) -> RunFolder:
    """The folder made ready, with nothing left of an earlier planning.

    Raises:
        UsageError: it cannot be written.
    """
    room = RunFolder(path=folder)
    try:
        for part in (room.log(0, "out").parent, room.error(0).parent):
            if part.is_dir():
                shutil.rmtree(part)
        room.prepare()
        for path in (room.plan, room.graph, room.reference, room.progress):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot write {folder}: {error.strerror}",
            cause="planning keeps its logs there",
            alternatives=[f"a folder that can be written, for example in {tempfile.gettempdir()}"],
        ) from None
    return room


def _result(watched: Watched, *, script: Path, arguments: Sequence[str], room: RunFolder, limit: Seconds) -> Plan:
    log = room.log(0, "err")
    if watched.ending == "interrupted":
        raise KeyboardInterrupt
    if watched.ending == "failed":
        raise failure(watched.failures, folder=room, command=shlex.join(["python", str(script), *arguments]))
    if watched.ending == "late":
        raise WorkerError(
            f"planning {script} took longer than {format_seconds(limit)} and was ended",
            cause="; ".join(["its first step was not reached or not tried in that time", *last_lines(log, 1)]),
            alternatives=["allow more: --planning-limit SECONDS", "give a plan: --plan plan.toml"],
            command=f"python {script}",
        )
    try:
        return read_plan(room.plan)
    except DocumentError:
        if room.plan.is_file():
            raise
        raise UsageError(
            f"{script} ended without a step of mw.parallel",
            cause="planning runs the script up to the first call of the step that mw.parallel returns; there was none",
            alternatives=["step = mw.parallel(model, optimizer, loss), then step(batch) for every batch"],
            command="meshwright examples",
        ) from None
