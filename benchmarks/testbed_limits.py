"""Limits of a host's processes: cores, processor time and memory, through control groups of either version."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from meshwright.units import Bytes

ROOT = Path("/sys/fs/cgroup")
# Short, so that a host with half a processor computes evenly and does not stand still for 50 ms at a time.
PERIOD = 10_000  # µs
# Hosts go before whatever else the machine does, so that it disturbs measurements little: the kernel's largest.
WEIGHT = {"cpu.weight": 10_000, "cpu.shares": 262_144}
LEAST_QUOTA = 1_000  # µs, the kernel's: a smaller share needs a longer period
CONTROLLERS = ("cpu", "cpuset", "memory")
ENDING_LIMIT = 5.0  # s
_FIRST_VERSION = ("memory.max_usage_in_bytes", "memory.oom_control")


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryUse:
    """Memory of a host's processes.

    Args:
        peak: most at one time, files that were read included (B); 0 where the kernel does not say.
        killed: processes that the kernel ended because there was no more.
    """

    peak: Bytes
    killed: int


class Limits:
    """The control groups of one host; made here, removed with `remove`.

    Args:
        name: of the groups.
        cores: processor cores; empty: all.
        cpus: processor time per second of clock time; 0: no limit.
        memory: most memory (B); 0: no limit.

    Raises:
        OSError: the kernel or a container does not let this process limit others.
    """

    def __init__(self, name: str, *, cores: tuple[int, ...], cpus: float, memory: Bytes) -> None:
        self._unified = (ROOT / "cgroup.controllers").exists()
        if self._unified:
            (ROOT / "cgroup.subtree_control").write_text(" ".join(f"+{item}" for item in CONTROLLERS))
        self.folders = (ROOT / name,) if self._unified else tuple(ROOT / item / name for item in CONTROLLERS)
        for folder in self.folders:
            folder.mkdir(exist_ok=True)
        self._set_cores(cores)
        self._set_weight()
        self.set_cpus(cpus)
        if memory and self._unified:
            (self.folders[0] / "memory.max").write_text(str(memory))
        elif memory:
            (self.folders[2] / "memory.limit_in_bytes").write_text(str(memory))
        if memory:
            self._forbid_swap(memory)

    def set_cpus(self, cpus: float) -> None:
        """Changes the processor time per second of clock time; 0: no limit."""
        period = max(PERIOD, round(LEAST_QUOTA / cpus)) if cpus else PERIOD
        quota = max(LEAST_QUOTA, round(cpus * period)) if cpus else 0
        if self._unified:
            (self.folders[0] / "cpu.max").write_text(f"{quota or 'max'} {period}")
        else:
            (self.folders[0] / "cpu.cfs_period_us").write_text(str(period))
            (self.folders[0] / "cpu.cfs_quota_us").write_text(str(quota or -1))

    def memory(self) -> MemoryUse:
        """What the groups' processes have taken so far."""
        folder = self.folders[0] if self._unified else self.folders[2]
        peak, events = ("memory.peak", "memory.events") if self._unified else _FIRST_VERSION
        counted = dict(line.split() for line in (folder / events).read_text().splitlines())
        return MemoryUse(
            peak=int((folder / peak).read_text()) if (folder / peak).exists() else 0,
            killed=int(counted.get("oom_kill", 0)),
        )

    def _forbid_swap(self, memory: Bytes) -> None:
        """What does not fit is to end, not to be slow; nothing to do where the kernel counts no swap."""
        folder, name, value = (
            (self.folders[0], "memory.swap.max", 0)
            if self._unified
            else (self.folders[2], "memory.memsw.limit_in_bytes", memory)
        )
        if (folder / name).exists():
            (folder / name).write_text(str(value))

    def remove(self) -> None:
        """Ends the processes that are left in the groups, and removes the groups."""
        for folder in self.folders:
            remove_group(folder)

    def _set_weight(self) -> None:
        name = "cpu.weight" if self._unified else "cpu.shares"
        (self.folders[0] / name).write_text(str(WEIGHT[name]))

    def _set_cores(self, cores: tuple[int, ...]) -> None:
        """A group of the first version holds no process until its cores and memory nodes are written."""
        folder = self.folders[0] if self._unified else self.folders[1]
        if cores:
            (folder / "cpuset.cpus").write_text(",".join(map(str, cores)))
        elif not self._unified:
            (folder / "cpuset.cpus").write_text((folder.parent / "cpuset.cpus").read_text())
        if not self._unified:
            (folder / "cpuset.mems").write_text((folder.parent / "cpuset.mems").read_text())


def remove_group(folder: Path) -> None:
    """Ends the processes in a control group and removes it; nothing where it is gone already."""
    deadline = time.monotonic() + ENDING_LIMIT
    while folder.exists():
        for process in (folder / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def groups_named(prefix: str) -> Iterator[Path]:
    """Control groups whose name begins so."""
    for parent in (ROOT, *(ROOT / item for item in CONTROLLERS)):
        if parent.is_dir():
            yield from parent.glob(f"{prefix}*")
