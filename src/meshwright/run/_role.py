"""What this process is asked to do, read from its environment: nothing else reads these variables.

| variable | meaning |
|---|---|
| `MESHWRIGHT_ROLE` | `plan`, `run` or `verify`; absent under plain `python`, `torchrun` or `srun` |
| `MESHWRIGHT_FOLDER` | folder to write into |
| `MESHWRIGHT_GOAL`, `MESHWRIGHT_CLUSTER`, `MESHWRIGHT_PLAN` | documents to read |
| `MESHWRIGHT_STEPS` | steps that a verification compares, or that planning does on one device for comparison |
| `MESHWRIGHT_DTYPE` | data type that a verification computes in, `float64`; absent: as the script has it |
| `MESHWRIGHT_TIMEOUT` | how long a collective may take (s) |
| `RANK`, `LOCAL_RANK`, `WORLD_SIZE`, `LOCAL_WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT` | as torchrun sets them |
| `SLURM_PROCID`, `SLURM_LOCALID`, `SLURM_STEP_NUM_TASKS`, `SLURM_STEP_NODELIST`, `SLURM_JOB_ID` | as srun sets them |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from meshwright.errors import UsageError, suggestion
from meshwright.hardware import first_host
from meshwright.units import Seconds

Kind = Literal["alone", "joined", "plan", "run", "verify"]
DEFAULT_TIMEOUT: Seconds = 300.0
DEFAULT_PORT = 29500


@dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    """What this process is asked to do.

    Args:
        kind: `alone` is plain python; `joined` is one of several processes that another launcher started.
        rank: number of this process.
        local_rank: its number on its host.
        world_size: how many there are.
        local_world_size: how many there are on its host.
        master: where the processes meet: host name and port.
        folder: to write into.
        goal: document with what is asked of a plan.
        cluster: document with the hardware.
        plan: document with the plan.
        steps: that a verification compares, or that planning does on one device for comparison.
        dtype: that a verification computes in; empty: as the script has it.
        timeout: of a collective (s).
    """

    kind: Kind = "alone"
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    master: tuple[str, int] = ("127.0.0.1", DEFAULT_PORT)
    folder: Path | None = None
    goal: Path | None = None
    cluster: Path | None = None
    plan: Path | None = None
    steps: int = 3
    dtype: Literal["", "float64"] = ""
    timeout: Seconds = DEFAULT_TIMEOUT


def role_of(environment: Mapping[str, str]) -> Role:
    """The role that an environment describes.

    Raises:
        UsageError: a variable has a value that means nothing.
    """
    place = _place(environment)
    named = environment.get("MESHWRIGHT_ROLE")
    if named is None:
        kind: Kind = "joined" if place["world_size"] > 1 else "alone"
    elif named in ("plan", "run", "verify"):
        kind = named
    else:
        raise UsageError(
            f"MESHWRIGHT_ROLE is {named!r}",
            cause=suggestion(named, get_args(Kind)) or "no such role",
            alternatives=["plan, run or verify; leave it unset to run one worker"],
        )
    return Role(
        kind=kind,
        folder=_path(environment, "MESHWRIGHT_FOLDER"),
        goal=_path(environment, "MESHWRIGHT_GOAL"),
        cluster=_path(environment, "MESHWRIGHT_CLUSTER"),
        plan=_path(environment, "MESHWRIGHT_PLAN"),
        steps=_number(environment, "MESHWRIGHT_STEPS", 0 if kind == "plan" else 3),
        dtype="float64" if environment.get("MESHWRIGHT_DTYPE") == "float64" else "",
        timeout=float(_number(environment, "MESHWRIGHT_TIMEOUT", int(DEFAULT_TIMEOUT))),
        **place,
    )


def _place(environment: Mapping[str, str]) -> dict[str, Any]:
    if "RANK" in environment and "WORLD_SIZE" in environment:
        world_size = _number(environment, "WORLD_SIZE", 1)
        return {
            "rank": _number(environment, "RANK", 0),
            "local_rank": _number(environment, "LOCAL_RANK", 0),
            "world_size": world_size,
            "local_world_size": _number(environment, "LOCAL_WORLD_SIZE", world_size),
            "master": (
                environment.get("MASTER_ADDR", "127.0.0.1"),
                _number(environment, "MASTER_PORT", DEFAULT_PORT),
            ),
        }
    if "SLURM_PROCID" in environment and "SLURM_STEP_NUM_TASKS" in environment:
        world_size = _number(environment, "SLURM_STEP_NUM_TASKS", 1)
        nodes = _number(environment, "SLURM_STEP_NUM_NODES", 1)
        return {
            "rank": _number(environment, "SLURM_PROCID", 0),
            "local_rank": _number(environment, "SLURM_LOCALID", 0),
            "world_size": world_size,
            "local_world_size": -(-world_size // nodes),
            "master": (
                environment.get("MASTER_ADDR") or first_host(environment.get("SLURM_STEP_NODELIST", "127.0.0.1")),
                _number(environment, "MASTER_PORT", 20000 + _number(environment, "SLURM_JOB_ID", 0) % 20000),
            ),
        }
    return {"world_size": 1}


def _path(environment: Mapping[str, str], name: str) -> Path | None:
    return Path(environment[name]) if environment.get(name) else None


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError:
        raise UsageError(
            f"{name} is {text!r}",
            cause="it has to be a whole number",
            alternatives=["leave it to `meshwright run`, torchrun or srun to set it"],
        ) from None
