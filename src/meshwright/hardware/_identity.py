"""Which machine this is: what tells it from another, told without loading torch."""

import os
import platform
import sys
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import psutil

from meshwright.hardware._control_groups import memory_groups
from meshwright.units import GIB, Bytes, format_bytes

_TOPOLOGY = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")
_NVIDIA = Path("/proc/driver/nvidia/gpus")


def identity() -> str:
    """What the measured rates depend on, in a line: processor, cores, memory, accelerators, torch version."""
    parts = [
        processor_name(),
        f"{len(usable_cores())} cores",
        format_bytes(round(memory_limit() / GIB) * GIB),
        *accelerator_names(),
        f"torch {version('torch')}",
    ]
    return ", ".join(parts)


def identity_digest(text: str) -> str:
    """A short name for files that belong to one identity and one probe: what other code measured is not used."""
    known = sha256(text.encode())
    for source in sorted(Path(__file__).parent.glob("probe*.py")):
        known.update(source.read_bytes())
    return known.hexdigest()[:12]


def processor_name() -> str:
    """The maker's name, with family, model and stepping where the name alone is ambiguous (virtual machines)."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = facts.get("model name", platform.machine())
    if "cpu family" not in facts:
        return name
    return f"{name} (family {facts['cpu family']} model {facts.get('model')} stepping {facts.get('stepping')})"


def usable_cores() -> tuple[int, ...]:
    """Numbers of the processor cores a worker may be pinned to: one hardware thread of each core, quota respected."""
    allowed = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else range(os.cpu_count() or 1)
    cores: dict[str, int] = {}
    for number in allowed:
        cores.setdefault(_siblings(number), number)
    quota = _cpu_quota()
    return tuple(cores.values())[: max(1, int(quota))] if quota else tuple(cores.values())


def memory_limit() -> Bytes:
    """Memory of this machine or of the container that this process is in, the smaller one (B)."""
    return min([psutil.virtual_memory().total, *(group.limit for group in memory_groups())])


def memory_available() -> Bytes:
    """Memory that may be allocated now without swapping (B)."""
    left = (max(0, group.limit - group.used) for group in memory_groups())
    return min([psutil.virtual_memory().available, *left])


def load_now(*, interval: float = 0.3) -> float:
    """Share of this machine's processor time that other processes use (0 to 1), watched for `interval` seconds.

    This process sleeps meanwhile, so that all there is belongs to others.
    """
    return psutil.cpu_percent(interval=interval) / 100


def accelerator_names() -> tuple[str, ...]:
    """Accelerators that the operating system shows, as told by their driver; the probe asks torch which are usable."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    nvidia = [_nvidia_name(folder) for folder in sorted(_NVIDIA.glob("*"))]
    others = [path.name for pattern in ("kfd", "accel*", "xpu*") for path in sorted(Path("/dev").glob(pattern))]
    names = [*nvidia, *others]
    if names and visible is not None:
        names.append(f"visible {visible or 'none'}")
    return tuple(names)


def _nvidia_name(folder: Path) -> str:
    for line in _read(folder / "information").splitlines():
        key, _, value = line.partition(":")
        if key == "Model":
            return value.strip()
    return "NVIDIA device"


def _siblings(number: int) -> str:
    return _read(_TOPOLOGY / f"cpu{number}/topology/thread_siblings_list") or str(number)


def _cpu_quota() -> float:
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else 0.0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
