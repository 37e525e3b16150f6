"""How much memory this worker has taken at most."""

from pathlib import Path

import torch

from meshwright.units import KIB, Bytes

_STATUS = Path("/proc/self/status")


def peak_memory() -> Bytes:
    """Peak of this process: resident memory on a host; on an accelerator what torch took, and what is there beside (B).

    `ru_maxrss` would count what the parent process had before this one was started; the kernel's high-water mark
    of this address space does not.
    """
    if torch.accelerator.is_available():
        free, total = torch.accelerator.get_memory_info()
        beside = total - free - torch.accelerator.memory_reserved()
        return int(torch.accelerator.max_memory_reserved()) + max(0, beside)
    try:
        text = _STATUS.read_text(encoding="ascii", errors="replace")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    at = text.find("VmHWM:")
    return int(text[at + 6 : text.find("kB", at)]) * KIB
