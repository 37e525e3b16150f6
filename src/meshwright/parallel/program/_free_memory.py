"""How much memory a step may take here before somebody ends the process."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from meshwright.units import Bytes

_GROUPS = Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> Bytes:
    """What this worker may allocate on a device: free memory shared with the host's other workers (B).

    Containers and limited jobs see the whole host's memory as free; their control group's limit is what ends them.
    """
    if device.type != "cpu":
        return torch.accelerator.get_memory_info(device)[0]
    workers = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min([psutil.virtual_memory().available // workers, *_left_in_groups()])


def _left_in_groups() -> Iterator[Bytes]:
    """What the control groups around this process leave (version 2; elsewhere there is none to read)."""
    try:
        entries = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    path = next((entry.removeprefix("0::/") for entry in entries if entry.startswith("0::/")), "")
    group = _GROUPS / path
    while group.is_relative_to(_GROUPS):
        try:
            limit = (group / "memory.max").read_text(encoding="ascii").strip()
            used = int((group / "memory.current").read_text(encoding="ascii"))
        except (OSError, ValueError):
            limit, used = "max", 0
        if limit != "max":
            yield int(limit) - used
        group = group.parent
