"""Whether memory that a step frees stays in the process.

glibc gives large freed blocks back to the system and fetches zeroed pages for the next ones; a training step frees
and fetches the same blocks every time, and the page faults cost up to 30 % of it (a small CNN). Retained memory is
fetched once, in huge pages where the system lends them.
"""

import ctypes
import os
import sys
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

from meshwright.units import GIB, KIB, MIB, Bytes

# From <malloc.h> and <sys/mman.h> of Linux.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4
_MADV_HUGEPAGE = 14

# Where glibc's dynamic threshold ends up in a process that frees large blocks; setting any threshold freezes it.
_SETTLED_THRESHOLD: Bytes = 32 * MIB
_DEFAULT_MMAP_MAX = 65536
_HUGE_PAGE: Bytes = 2 * MIB


def allocator_applied(allocator: Literal["default", "retained"]) -> AbstractContextManager[None]:
    """A context in which freed memory stays in the process; does nothing where the C library is not glibc.

    Leaving it returns the free memory to the system and restores glibc's thresholds to where they settle.
    """
    library = glibc()
    return _retained(library) if allocator == "retained" and library is not None else nullcontext()


def glibc() -> ctypes.CDLL | None:
    """The C library, where it is glibc."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return None
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes = [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return library


@contextmanager
def _retained(library: ctypes.CDLL) -> Generator[None]:
    library.mallopt(_M_TRIM_THRESHOLD, -1)
    library.mallopt(_M_MMAP_MAX, 0)
    library.mallopt(_M_TOP_PAD, 64 * MIB)
    _reserve_huge_pages(library)
    try:
        yield
    finally:
        library.mallopt(_M_MMAP_MAX, _DEFAULT_MMAP_MAX)
        library.mallopt(_M_MMAP_THRESHOLD, _SETTLED_THRESHOLD)
        library.mallopt(_M_TRIM_THRESHOLD, 2 * _SETTLED_THRESHOLD)
        library.mallopt(_M_TOP_PAD, 128 * KIB)
        library.malloc_trim(0)


def _reserve_huge_pages(library: ctypes.CDLL) -> None:
    """Extends the heap's addresses and asks for huge pages there; memory is taken only when it is written."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    size = min(physical // 8, 8 * GIB)
    block = library.malloc(size)
    if not block:
        return
    start = -(-block // _HUGE_PAGE) * _HUGE_PAGE
    library.madvise(start, (block + size - start) // _HUGE_PAGE * _HUGE_PAGE, _MADV_HUGEPAGE)
    library.free(block)
