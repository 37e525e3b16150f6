"""The proof: a plan's steps beside the one-device program's, in the workers that the plan asks for."""

from collections.abc import Sequence
from pathlib import Path

from meshwright.cost import Verification
from meshwright.documents import read_toml
from meshwright.errors import NotEqualError, UsageError
from meshwright.hardware import Cluster
from meshwright.launch._planning import check_script
from meshwright.launch._progress import Progress
from meshwright.launch._run_folder import RunFolder
from meshwright.launch._running import work, write_inputs
from meshwright.plan import Goal, Plan


def verify_script(
    script: Path,
    arguments: Sequence[str] = (),
    *,
    plan: Plan,
    goal: Goal,
    cluster: Cluster,
    folder: RunFolder,
    progress: Progress,
    steps: int = 3,
) -> Verification:
    """Compares loss, every gradient and every parameter over the first steps of a script.

    Args:
        script: the user's script.
        arguments: its own arguments.
        plan: what is proved.
        goal: what was asked of it.
        cluster: what it was made for.
        folder: where the workers write.
        progress: shows the script's output.
        steps: optimizer steps to compare.

    Returns:
        The distances, whether they are rounding or not.

    Raises:
        UsageError: the script has fewer steps, or none.
        MeshwrightError: a worker failed otherwise than by differing.
        KeyboardInterrupt: Ctrl-C; every process has ended.
    """
    check_script(script)
    folder.prepare()
    write_inputs(folder, plan=plan, goal=goal, cluster=cluster)
    num_workers = plan.strategy.num_workers
    try:
        ending = work(
            "verify", script, arguments, folder=folder, progress=progress, num_workers=num_workers, steps=steps
        )
    except NotEqualError:
        if not folder.verification.is_file():
            raise
        ending = "finished"
    if ending == "interrupted":
        raise KeyboardInterrupt
    if not folder.verification.is_file():
        raise UsageError(
            f"{script} ended before {steps} steps of mw.parallel were compared",
            cause="the proof needs a batch for every step it compares",
            alternatives=["compare fewer: --steps 1", "give the script more batches"],
            command=f"meshwright verify --steps 1 {script}",
        )
    return read_toml(Verification, folder.verification)
