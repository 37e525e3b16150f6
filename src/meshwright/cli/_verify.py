"""`meshwright verify`."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from meshwright.cli._options import Flag, GoalOptions
from meshwright.cli._output import print_aside, print_json, print_view
from meshwright.cli._session import find_cluster, find_plan, scratch_folder
from meshwright.cli._settings import resolve
from meshwright.cost import Verification
from meshwright.documents import to_mapping, write_toml
from meshwright.errors import NotEqualError
from meshwright.launch import Progress, RunFolder, check_script, verify_script
from meshwright.report import verification_table


def verify(
    script: Path,
    /,
    *arguments: Annotated[str, Parameter(allow_leading_hyphen=True)],
    goal: GoalOptions | None = None,
    plan: Path | None = None,
    steps: int = 3,
    json: Flag = False,
) -> int:
    """A script's plan against the one-device program on the same batches: loss, every gradient, every parameter.

    Exit code 4 where they differ by more than rounding. The proof of a run's own plan is kept in the run's folder, and
    shown on its page.

    Parameters
    ----------
    script
        The script.
    arguments
        Its own arguments.
    plan
        Prove the plan in this file instead of making one.
    steps
        Optimizer steps to compare.
    json
        Print one JSON object.
    """
    check_script(script)
    settings = resolve(goal or GoalOptions(), plan=plan)
    progress = Progress(script_output=sys.stderr)
    cluster = find_cluster(settings, progress=progress)
    with scratch_folder() as scratch:
        folder = RunFolder(path=Path(scratch))
        made = find_plan(
            script, arguments, settings=settings, cluster=cluster, folder=folder.planning.path, progress=progress
        )
        progress.status.announce(f"comparing {steps} steps with the one-device program: {made.strategy.summary}")
        found = verify_script(
            script,
            arguments,
            plan=made,
            goal=settings.goal,
            cluster=cluster,
            folder=folder,
            progress=progress,
            steps=steps,
        )
    if settings.plan is not None:
        keep(found, run=RunFolder(path=settings.plan.parent))
    if json:
        print_json(to_mapping(found))
    else:
        print_view(verification_table(found))
    return 0 if found.equal else NotEqualError.exit_code


def keep(found: Verification, *, run: RunFolder) -> None:
    """Keeps the proof of a run's plan beside it, for the run's page."""
    if run.record.is_file():
        write_toml(found, run.verification)
        print_aside(f"kept in {run.verification}; next: meshwright report {run.path}")
