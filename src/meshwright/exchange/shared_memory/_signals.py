"""Signals between processes that share memory: counting semaphores in the shared memory itself.

POSIX semaphores order memory: what a process wrote before `sem_post` is seen by whoever returns from `sem_wait`, on
every processor. Plain flags in shared memory are not that, and Python has no fences.
"""

import ctypes
import ctypes.util
import errno
import os
import select
import time
from collections.abc import Sequence

from meshwright.errors import WorkerError
from meshwright.exchange.shared_memory._segment import Segment
from meshwright.units import Bytes, Seconds

# A semaphore takes 32 bytes in glibc and musl; a cache line each keeps two of them from slowing each other down.
LINE: Bytes = 64
# A peer that is about to answer does so within microseconds; sleeping and waking costs 50. Longer, and the core is
# better given to somebody else.
SPIN: Seconds = 100e-6
# How often a sleeping worker looks whether its peer still lives.
SLICE: Seconds = 20e-3


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class Signals:
    """One counter from every worker to every other, for each kind of signal.

    Args:
        segment: shared memory of `size_of` bytes that `prepare` set up.
        rank: this worker.
        processes: process number of each worker.
        timeout: how long to wait for a living worker (s).
    """

    def __init__(self, segment: Segment, *, rank: int, processes: Sequence[int], timeout: Seconds) -> None:
        self._rank = rank
        self._processes = tuple(processes)
        self._timeout = timeout
        self._library = ctypes.CDLL(None, use_errno=True)
        self._memory = segment.memory
        self._base = _address_of(segment)
        self._watched = [_watched(process) for process in self._processes]

    @staticmethod
    def size_of(size: int, kinds: int) -> Bytes:
        """Shared memory for so many workers (B)."""
        return kinds * size * size * LINE

    @staticmethod
    def prepare(segment: Segment, size: int, kinds: int) -> None:
        """Sets the counters up; one worker does it, before any other uses them."""
        library = ctypes.CDLL(None, use_errno=True)
        base = _address_of(segment)
        for offset in range(0, Signals.size_of(size, kinds), LINE):
            if library.sem_init(ctypes.c_void_p(base + offset), 1, 0) != 0:
                raise WorkerError(f"cannot create a semaphore: {os.strerror(ctypes.get_errno())}")

    def post(self, peer: int, kind: int) -> None:
        """Raises the counter of a peer by one; what was written before is seen by it."""
        self._library.sem_post(self._address(self._rank, peer, kind))

    def take(self, peer: int, kind: int) -> bool:
        """Lowers the counter that a peer raised, if it did."""
        return self._library.sem_trywait(self._address(peer, self._rank, kind)) == 0

    def wait(self, peer: int, kind: int) -> None:
        """Lowers the counter that a peer raises, as soon as it does.

        Raises:
            WorkerError: the peer has ended, or the time is over.
        """
        started = time.monotonic()
        while time.monotonic() - started < SPIN:
            if self.take(peer, kind):
                return
            os.sched_yield()
        address = self._address(peer, self._rank, kind)
        while not self._slept(address):
            if self._ended(peer):
                if self.take(peer, kind):
                    return
                raise WorkerError(
                    f"worker {peer} (process {self._processes[peer]}) ended while worker {self._rank} "
                    "waited for its gradients",
                    cause="it failed, or was killed; its own message is in its log",
                )
            if time.monotonic() - started > self._timeout:
                raise WorkerError(
                    f"worker {peer} (process {self._processes[peer]}) did not answer worker {self._rank} "
                    f"for {self._timeout:.0f} s",
                    cause="it lives, but does something else: a longer batch, other steps, or a stopped process",
                )

    def close(self) -> None:
        """Stops watching the other processes."""
        for descriptor in self._watched:
            if descriptor >= 0:
                os.close(descriptor)
        self._watched = []

    def _address(self, source: int, target: int, kind: int) -> ctypes.c_void_p:
        size = len(self._processes)
        return ctypes.c_void_p(self._base + ((kind * size + source) * size + target) * LINE)

    def _slept(self, address: ctypes.c_void_p) -> bool:
        until = time.time() + SLICE
        moment = _Time(int(until), int((until % 1.0) * 1e9))
        if self._library.sem_timedwait(address, ctypes.byref(moment)) == 0:
            return True
        if ctypes.get_errno() not in (errno.ETIMEDOUT, errno.EINTR):
            raise WorkerError(f"cannot wait for a semaphore: {os.strerror(ctypes.get_errno())}")
        return False

    def _ended(self, peer: int) -> bool:
        if self._watched[peer] < 0:
            return False
        poll = select.poll()
        poll.register(self._watched[peer], select.POLLIN)
        return bool(poll.poll(0))


def _watched(process: int) -> int:
    """A descriptor that tells when a process ends; -1 for this one, and where the kernel or a sandbox has none."""
    if process == os.getpid():
        return -1
    try:
        return os.pidfd_open(process)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):
            return -1
        raise WorkerError(f"process {process} has ended before tensors were exchanged") from None


def _address_of(segment: Segment) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(segment.memory))
