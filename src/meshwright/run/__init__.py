"""Who does the steps? The step, its batches, the worker process, the trial and the proof.

In: the user's model, optimizer and loss, a `Plan`, and the role that the environment gives this process. Out: trained
parameters, metrics and a `Measurement`; from a planning process a `Plan`; from a proof a `Verification`.
Reading order: `_role` (what this process is asked to do), `_parallel` (what the user calls), `_step`, `_opening` (what
the first batch decides), `_engine` (one step), `guards` (some steps beside exact ones), `_batch` and `_loader` (who
computes which examples), `_metrics` with `_drift` and `_reconsideration` (steps beside their prediction), `_trace`,
`_planning` and `_trial` with `_race` and `_heat`, `_experience` (of earlier runs), `_program_splits` and `_split_plan`
(where pins split the model), `_proof`, `_checkpoint`, `worker` (the process around the script); `loop` (steps that the
user's own loop does).

Names are loaded when they are used: `worker` has settings to make before torch is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshwright.run._engine import Engine as Engine
    from meshwright.run._job import Job as Job
    from meshwright.run._parallel import parallel as parallel
    from meshwright.run._role import Role as Role
    from meshwright.run._role import role_of as role_of
    from meshwright.run._step import Step as Step
    from meshwright.run._verify import verify as verify

_HOMES = {
    "Engine": "_engine",
    "Job": "_job",
    "Role": "_role",
    "Step": "_step",
    "parallel": "_parallel",
    "role_of": "_role",
    "verify": "_verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
