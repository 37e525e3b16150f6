"""The proof: a plan's steps beside the one-device program's, in the workers that the plan asks for."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from meshwright.cost import Verification
from meshwright.documents import read_toml
from meshwright.errors import MeshwrightError, NotEqualError, UsageError
from meshwright.hardware import Cluster
from meshwright.launch._environment import Role
from meshwright.launch._planning import check_script
from meshwright.launch._progress import Progress
from meshwright.launch._run_folder import RunFolder
from meshwright.launch._running import work, write_inputs
from meshwright.plan import Goal, Plan

NEAR = 1e-2  # of a whole gradient, and of the way that parameters walked: what a few elements beyond a kink make


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

    Where ReLU or a maximum takes another branch because of a rounding, float32 gradients of equal programs are further
    apart than rounding itself. So where they are near but not equal, the same is computed in float64, which decides.

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
    inputs = partial(write_inputs, plan=plan, goal=goal, cluster=cluster)
    num_workers = plan.strategy.num_workers
    compared = partial(_compared, script, arguments, progress=progress, num_workers=num_workers, steps=steps)
    folder.prepare()
    inputs(folder)
    found = compared("verify", folder=folder)
    if found.equal or not _is_near(found):
        return found
    progress.status.announce(f"gradients differ by {found.gradient:.1e}: comparing in float64, which tells rounding")
    finer_folder = RunFolder(path=folder.path / "float64")
    finer_folder.prepare()
    inputs(finer_folder)
    try:
        finer = compared("verify in float64", folder=finer_folder)
    except MeshwrightError as error:
        return replace(found, notes=(*found.notes, f"could not be compared in float64: {error.fact}"))
    if not finer.equal:
        return replace(found, notes=(*found.notes, f"in float64 gradients differ by {finer.gradient:.1e} too"))
    kink = "a rounding moves elements over a kink, of ReLU or a maximum"
    return replace(finer, notes=(*finer.notes, f"in float32 gradients differ by {found.gradient:.1e}: {kink}"))


def _is_near(found: Verification) -> bool:
    """Whether float32 could be all that is between them."""
    is_near = max(found.gradient, found.parameters) <= NEAR and found.loss <= found.tolerance
    return found.dtype == "float32" and is_near


def _compared(
    script: Path,
    arguments: Sequence[str],
    role: Role,
    *,
    folder: RunFolder,
    progress: Progress,
    num_workers: int,
    steps: int,
) -> Verification:
    try:
        ending = work(role, script, arguments, folder=folder, progress=progress, num_workers=num_workers, steps=steps)
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
