"""How the tasks of a Slurm step agree on a start: through the run's folder, which Slurm's file system shares."""

import json
import time
from dataclasses import replace

from meshwright.documents import write_text
from meshwright.errors import MeshwrightError, WorkerError, from_json, to_json
from meshwright.launch._environment import free_port
from meshwright.launch._run_folder import RunFolder
from meshwright.launch._slurm import Task
from meshwright.units import Seconds, format_seconds

LOOK_INTERVAL: Seconds = 0.2


def announce_start(task: Task, *, folder: RunFolder) -> Task:
    """Task 0, whose plan lies in the folder, chooses the port and tells the others."""
    port = free_port()
    write_text(folder.start, json.dumps({"port": port}))
    return replace(task, port=port)


def announce_failure(error: MeshwrightError, *, folder: RunFolder) -> None:
    """Task 0 tells the others that there will be no start."""
    write_text(folder.start, json.dumps({"error": to_json(error)}))


def await_start(task: Task, *, folder: RunFolder, limit: Seconds) -> Task:
    """Another task waits until task 0 has planned.

    Raises:
        MeshwrightError: what task 0 failed with.
        WorkerError: nothing was heard of task 0.
    """
    deadline = time.monotonic() + limit
    while not folder.start.is_file():
        if time.monotonic() > deadline:
            raise WorkerError(
                f"task {task.rank} heard nothing of task 0 for {format_seconds(limit)}",
                cause=f"task 0 plans and then writes {folder.start}; it has failed, or the folder is not shared",
                alternatives=["an output folder that every host sees: --output FOLDER"],
                command="srun meshwright run --output FOLDER SCRIPT",
            )
        time.sleep(LOOK_INTERVAL)
    start = json.loads(folder.start.read_text(encoding="utf-8"))
    if "error" in start:
        raise from_json(start["error"])
    return replace(task, port=start["port"])
