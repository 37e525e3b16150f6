"""Memory that several processes of one host see, and that is gone when the last of them is."""

import mmap
import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from meshwright.errors import WorkerError
from meshwright.units import Bytes, format_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentAddress:
    """Where another process of the host finds a segment."""

    process: int
    descriptor: int
    size: Bytes


class Segment:
    """Shared memory without a name: the kernel frees it with the last process that maps it, however that one ends.

    A named file under `/dev/shm` would outlive killed workers, and is limited to 64 MiB in most containers.
    """

    def __init__(self, descriptor: int, size: Bytes) -> None:
        self._descriptor = descriptor
        self._size = size
        self.memory = mmap.mmap(descriptor, size)

    @classmethod
    def create(cls, size: Bytes) -> "Segment":
        """New memory, set to zero and truly there: a later write does not have to find it.

        Raises:
            WorkerError: the host has not that much. Asked for it nevertheless, the kernel would end processes.
        """
        available = psutil.virtual_memory().available
        if size > available:
            raise WorkerError(
                f"no {format_bytes(size)} of shared memory for the exchange of gradients: "
                f"{format_bytes(available)} is free",
                alternatives=["use fewer workers", "shard more: --set sharding=gradients"],
            )
        descriptor = os.memfd_create("meshwright", os.MFD_CLOEXEC)
        os.posix_fallocate(descriptor, 0, size)
        return cls(descriptor, size)

    @classmethod
    def attach(cls, address: SegmentAddress) -> "Segment":
        """The memory that another process created.

        Raises:
            WorkerError: that process cannot be reached from here.
        """
        try:
            descriptor = os.open(f"/proc/{address.process}/fd/{address.descriptor}", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise WorkerError(
                f"cannot open the shared memory of process {address.process}: {error.strerror}",
                cause="workers that share memory must run on one host, for one user, in one container",
                alternatives=["exchange through gloo: --set transport=gloo"],
            ) from None
        return cls(descriptor, address.size)

    @property
    def address(self) -> SegmentAddress:
        """Where other processes find it, until `seal`."""
        return SegmentAddress(process=os.getpid(), descriptor=self._descriptor, size=self._size)

    def seal(self) -> None:
        """Closes the way in once everybody has attached; the memory stays."""
        os.close(self._descriptor)


def host_identity() -> str:
    """Equal for processes that can share memory: same kernel, same boot, same process namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"
