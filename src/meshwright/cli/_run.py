"""`meshwright run`."""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from meshwright.cli._lead import join_host, join_task, lead, task_folder
from meshwright.cli._options import Flag, GoalOptions, HostOptions, RunOptions
from meshwright.cli._output import print_aside, print_json
from meshwright.cli._settings import resolve
from meshwright.cost import Measurement
from meshwright.documents import to_mapping
from meshwright.errors import MeshwrightError, UsageError
from meshwright.launch import (
    INTERRUPTED_EXIT_CODE,
    Progress,
    RunFolder,
    check_port,
    check_script,
    create_run_folder,
    slurm_task,
)
from meshwright.plan import Plan
from meshwright.report import outcome_table, write_page

EXIT_CODES = {"finished": 0, "interrupted": INTERRUPTED_EXIT_CODE}


def run(
    script: Path,
    /,
    *arguments: Annotated[str, Parameter(allow_leading_hyphen=True)],
    goal: GoalOptions | None = None,
    steps: int | None = None,
    place: RunOptions | None = None,
    hosts: HostOptions | None = None,
    json: Flag = False,
) -> int:
    """Plans a script, starts the workers that the plan asks for, shows progress, and writes a report.

    Everything about the run lies in outputs/SCRIPT-DATE-TIME. Inside srun every task is one worker.

    Parameters
    ----------
    script
        The script.
    arguments
        Its own arguments.
    steps
        How many steps the run will take; decides whether compiling pays, and lets the time left be shown.
    json
        Print one JSON object; the script's own output goes to standard error.
    """
    check_script(script)
    refuse_torchrun(os.environ, script=script)
    settings = resolve(goal or GoalOptions(), place or RunOptions(), hosts or HostOptions(), steps=steps)
    progress = Progress(script_output=sys.stderr if json else sys.stdout)
    task = slurm_task(os.environ)
    if task is not None and task.rank > 0:
        return EXIT_CODES[join_task(script, arguments, task=task, settings=settings, progress=progress)]
    if settings.hosts.rank > 0:
        return EXIT_CODES[join_host(script, arguments, settings=settings, progress=progress)]
    check_port(settings.hosts)
    folder = create_run_folder(script, output=settings.output, name=task_folder(script, task) if task else "")
    try:
        plan, measurement = lead(
            script, arguments, folder=folder, where=task or settings.hosts, settings=settings, progress=progress
        )
    except (MeshwrightError, KeyboardInterrupt):
        _show_remains(folder)
        raise
    show = _print_result if json else _show_result
    show(folder, plan, measurement)
    return EXIT_CODES[measurement.status]


def _show_result(folder: RunFolder, plan: Plan, measurement: Measurement) -> None:
    page = write_page(folder.path)
    print_aside(outcome_table(plan.prediction, measurement))
    print_aside(f"{measurement.status} after {measurement.steps} steps; report: {page}")


def _print_result(folder: RunFolder, plan: Plan, measurement: Measurement) -> None:
    page = write_page(folder.path)
    print_json(
        {
            "folder": str(folder.path),
            "report": str(page),
            "plan": plan.strategy.summary,
            "prediction": to_mapping(plan.prediction),
            "measurement": to_mapping(measurement),
        }
    )


def _show_remains(folder: RunFolder) -> None:
    """Of a run that failed; an error on the way must not stand in for the run's own."""
    with suppress(MeshwrightError):
        write_page(folder.path)
    print_aside(f"what there is of the run: {folder.path}")


def refuse_torchrun(environment: Mapping[str, str], *, script: Path) -> None:
    """Refuses to start workers inside a worker.

    Raises:
        UsageError: torchrun started this process.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        raise UsageError(
            "meshwright run was started by torchrun",
            cause="both start workers, and each of torchrun's would start all of its own",
            alternatives=[f"torchrun ... {script}: the script finds its place by itself"],
            command=f"meshwright run {script}",
        )
