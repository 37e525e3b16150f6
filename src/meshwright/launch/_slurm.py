"""A task of a Slurm job: under `srun meshwright run train.py` every task is one worker."""

from collections.abc import Mapping
from dataclasses import dataclass

from meshwright.errors import UsageError
from meshwright.hardware import first_host

FIRST_RESERVED_STEP = 0xFFFFFFF0  # SLURM_STEP_ID of batch scripts and interactive shells: slurm/slurm.h


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """This process's place in the job.

    Args:
        rank: of all tasks.
        num_tasks: tasks of the step.
        local_rank: among the tasks of its host.
        num_hosts: hosts of the step.
        address: of the first host, where the workers meet.
        port: it listens on; 0 until task 0 has chosen one.
        name: tells this start of this step of this job from every other.
    """

    rank: int
    num_tasks: int
    local_rank: int
    num_hosts: int
    address: str
    name: str
    port: int = 0


def slurm_task(environment: Mapping[str, str]) -> Task | None:
    """The Slurm task that this process is; None outside `srun`.

    `SLURM_PROCID` is also set in a batch script and in an interactive shell, where one process starts everything:
    those have no step, or one of the reserved numbers.

    Raises:
        UsageError: a variable is missing or no number.
    """
    step = environment.get("SLURM_STEP_ID", "" if environment.get("ENVIRONMENT") == "BATCH" else "0")
    if "SLURM_PROCID" not in environment or not step or int(step) >= FIRST_RESERVED_STEP:
        return None
    num_tasks = _number(environment, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    num_hosts = _number(environment, "SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES")
    hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    restart = environment.get("SLURM_RESTART_COUNT", "0")
    return Task(
        rank=_number(environment, "SLURM_PROCID"),
        num_tasks=num_tasks,
        local_rank=_number(environment, "SLURM_LOCALID"),
        num_hosts=num_hosts,
        address=first_host(hosts) if num_hosts > 1 else "127.0.0.1",
        name=f"slurm-{environment.get('SLURM_JOB_ID', '0')}.{step}" + (f"-restart-{restart}" if restart != "0" else ""),
    )


def _number(environment: Mapping[str, str], *names: str) -> int:
    text = next((environment[name] for name in names if name in environment), "")
    if not text.isdigit():
        raise UsageError(
            f"{names[0]} is {text!r}, not a number" if text else f"{' or '.join(names)} is not set",
            cause="this process was started by srun, which says each task's place by that variable",
            alternatives=["start outside of Slurm: env -u SLURM_PROCID meshwright run SCRIPT"],
            command="srun meshwright run SCRIPT",
        )
    return int(text)
