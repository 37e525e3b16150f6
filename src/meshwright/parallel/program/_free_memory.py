"""How much memory a step may take here before somebody ends the process."""

import os

import psutil
import torch

from meshwright.hardware import memory_groups
from meshwright.units import Bytes


def free_memory(device: torch.device) -> Bytes:
    """What this worker may allocate on a device: free memory shared with the host's other workers (B).

    Containers and limited jobs see the whole host's memory as free; their control group's limit is what ends them.
    """
    if device.type != "cpu":
        return torch.accelerator.get_memory_info(device)[0]
    workers = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    left = (group.limit - group.used for group in memory_groups())
    return min([psutil.virtual_memory().available // workers, *left])
