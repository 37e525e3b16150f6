"""How fast processes of one host exchange tensors through memory that all of them see.

`exchange` has the transport itself; this room lies below it and times the same movements: every member copies its
tensor into its own slot, all meet, each member sums its part over all slots, all meet, everyone copies the result out.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from meshwright.hardware._cluster import CollectiveName, CollectiveRate
from meshwright.hardware.probe_collectives import (
    COLLECTIVES,
    FLOAT,
    LARGE,
    LARGE_CALLS,
    SMALL,
    SMALL_CALLS,
    fitted_rate,
    median_duration,
)
from meshwright.hardware.probe_workers import Member
from meshwright.units import Bytes

LINE = 16  # int32 elements of a cache line: each member's counter has one to itself
MEMORY_FOLDER = Path("/dev/shm")


class SharedSlots:
    """Memory seen by all members: a slot for each, one for the result, and counters to meet by.

    Args:
        path: of the file that is mapped; made by the first member that comes, all zeros.
        member: this process.
    """

    def __init__(self, path: str, member: Member) -> None:
        elements = LARGE // FLOAT
        floats = torch.from_file(path, shared=True, size=(member.group + 1) * elements, dtype=torch.float32)
        counters = torch.from_file(f"{path}.counters", shared=True, size=member.group * LINE, dtype=torch.int32)
        self.slots: Tensor = floats[: member.group * elements].view(member.group, elements)
        self.result: Tensor = floats[member.group * elements :]
        self._counters = memoryview(counters.numpy().data)
        self._member = member

    def meet(self) -> None:
        """Returns when all members have called it as often as this one; gives the core away while it waits."""
        turn = self._counters[self._member.rank * LINE] + 1
        self._counters[self._member.rank * LINE] = turn
        for rank in range(self._member.group):
            while self._counters[rank * LINE] < turn:
                os.sched_yield()


def shared_memory_folder(members: int) -> Path:
    """Where the slots' file goes: memory where enough of it may be used for files, else the temporary folder."""
    needed = 2 * (members + 1) * LARGE
    if MEMORY_FOLDER.is_dir() and shutil.disk_usage(MEMORY_FOLDER).free > needed:
        return MEMORY_FOLDER
    return Path(tempfile.gettempdir())


def shared_memory_rates(member: Member, path: str) -> list[CollectiveRate]:
    """Latency and bandwidth of every collective through shared memory; called by all members at the same time."""
    torch.set_num_threads(1)
    member.together()
    shared = SharedSlots(path, member)
    member.together()
    rates = []
    for name in COLLECTIVES:
        small = median_duration(_collective(name, SMALL, shared, member), SMALL_CALLS)
        large = median_duration(_collective(name, LARGE, shared, member), LARGE_CALLS)
        latency, bandwidth = fitted_rate(small, large)
        rates.append(
            CollectiveRate(
                collective=name, transport="shared_memory", group=member.group, latency=latency, bandwidth=bandwidth
            )
        )
    return rates


def _collective(name: CollectiveName, size: Bytes, shared: SharedSlots, member: Member) -> Callable[[], None]:
    """The movements of one collective on a whole tensor of `size` bytes."""
    count = size // FLOAT
    part = slice(member.rank * count // member.group, (member.rank + 1) * count // member.group)
    whole = torch.zeros(count)
    slots, result, own = shared.slots[:, :count], shared.result[:count], shared.slots[member.rank, :count]

    def all_reduce() -> None:
        own.copy_(whole)
        shared.meet()
        torch.sum(slots[:, part], dim=0, out=result[part])
        shared.meet()
        whole.copy_(result)

    def all_gather() -> None:
        result[part].copy_(whole[part])
        shared.meet()
        whole.copy_(result)
        shared.meet()

    def reduce_scatter() -> None:
        own.copy_(whole)
        shared.meet()
        torch.sum(slots[:, part], dim=0, out=whole[part])
        shared.meet()

    def broadcast() -> None:
        if member.rank == 0:
            result.copy_(whole)
        shared.meet()
        if member.rank != 0:
            whole.copy_(result)
        shared.meet()

    return {
        "all_reduce": all_reduce, "all_gather": all_gather, "reduce_scatter": reduce_scatter, "broadcast": broadcast,
    }[name]  # fmt: skip
