"""What a worker process is told through its environment; `run/_role.py` reads it."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

Role = Literal["plan", "run", "verify", "verify in float64"]

PLACE_PREFIXES = ("TORCHELASTIC_", "MESHWRIGHT_")
PLACE_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
KEPT_NAMES = ("MESHWRIGHT_CACHE",)


def worker_environment(
    role: Role,
    *,
    folder: Path,
    goal: Path,
    cluster: Path,
    plan: Path | None = None,
    steps: int = 0,
    inherited: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The whole environment of a worker, without its place among the others.

    Args:
        role: what the worker is for.
        folder: where it writes.
        goal: file that holds the `Goal`.
        cluster: file that holds the `Cluster`.
        plan: file that holds the `Plan` to follow.
        steps: steps to compare, for `verify`; steps on one device, for `plan`.
        inherited: what to start from; this process's own environment where None. A place that another launcher gave
            to this process is not the worker's and is left out.
    """
    source = os.environ if inherited is None else inherited
    environment = {
        name: value
        for name, value in source.items()
        if name in KEPT_NAMES or not (name in PLACE_NAMES or name.startswith(PLACE_PREFIXES))
    }
    environment |= {
        "MESHWRIGHT_ROLE": role.removesuffix(" in float64"),
        "MESHWRIGHT_FOLDER": str(folder.resolve()),
        "MESHWRIGHT_GOAL": str(goal.resolve()),
        "MESHWRIGHT_CLUSTER": str(cluster.resolve()),
        "PYTHONUNBUFFERED": "1",
    }
    if plan is not None:
        environment["MESHWRIGHT_PLAN"] = str(plan.resolve())
    if role == "verify in float64":
        environment["MESHWRIGHT_DTYPE"] = "float64"
    if steps:
        environment["MESHWRIGHT_STEPS"] = str(steps)
    return environment


def place(rank: int, *, world_size: int, address: str, port: int, local_rank: int | None = None) -> dict[str, str]:
    """A worker's place among the others, in torchrun's variables.

    Args:
        rank: of all workers.
        world_size: number of workers.
        address: where rank 0 listens.
        port: the port it listens on.
        local_rank: rank on its host; the same as `rank` where None.
    """
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank if local_rank is None else local_rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
    }


def free_port() -> int:
    """A port of this host that nobody listens on now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
