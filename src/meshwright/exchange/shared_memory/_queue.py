"""Transfers through shared memory, one after another: who may read whose tensor when.

A worker that starts a transfer tells its readers that its tensor is ready; it reads its sources' tensors once all of
them are ready, and tells them when it is done. Signals of one kind between two workers are counted, not named, so
transfers are read in the order in which they were started, and finish in that order.
"""

from collections import deque
from collections.abc import Callable, Sequence

from meshwright.exchange._transport import Transfer
from meshwright.exchange.shared_memory._signals import Signals

KINDS = 2
_READY, _DONE = range(KINDS)


class TransferQueue:
    """The transfers of one worker that are under way.

    Args:
        signals: between the workers, of `KINDS` kinds.
    """

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._unread: deque[SharedMemoryTransfer] = deque()
        self._unfinished: deque[SharedMemoryTransfer] = deque()

    def start(
        self, read: Callable[[], object], *, sources: Sequence[int], readers: Sequence[int]
    ) -> "SharedMemoryTransfer":
        """Starts a transfer; this worker's tensor is ready now.

        Args:
            read: takes what this worker needs from its sources.
            sources: workers whose tensors it reads.
            readers: workers that read its tensor.
        """
        transfer = SharedMemoryTransfer(self, read, sources=sources, readers=readers)
        self._unread.append(transfer)
        self._unfinished.append(transfer)
        for peer in readers:
            self._signals.post(peer, _READY)
        self.advance(transfer)
        return transfer

    def finish(self, transfer: "SharedMemoryTransfer") -> None:
        """Waits for a transfer, moving on those before it."""
        while not self.advance(transfer):
            if transfer.unread:
                sources = self._unread[0].sources
                self._signals.wait(sources[-1], _READY)
                sources.pop()
            else:
                readers = self._unfinished[0].readers
                self._signals.wait(readers[-1], _DONE)
                readers.pop()

    def advance(self, transfer: "SharedMemoryTransfer") -> bool:
        """Does what the signals that have come allow; whether a transfer is done."""
        while self._unread and self._taken(self._unread[0].sources, _READY):
            head = self._unread.popleft()
            head.read()
            for peer in head.read_from:
                self._signals.post(peer, _DONE)
            head.unread = False
        while self._unfinished and not self._unfinished[0].unread:
            if not self._taken(self._unfinished[0].readers, _DONE):
                break
            self._unfinished.popleft().unfinished = False
        return not transfer.unfinished

    def close(self) -> None:
        """Stops watching the other workers."""
        self._signals.close()

    def _taken(self, peers: list[int], kind: int) -> bool:
        while peers and self._signals.take(peers[-1], kind):
            peers.pop()
        return not peers


class SharedMemoryTransfer(Transfer):
    """A transfer and the signals that it still waits for."""

    def __init__(
        self, queue: TransferQueue, read: Callable[[], object], *, sources: Sequence[int], readers: Sequence[int]
    ) -> None:
        self._queue = queue
        self.read = read
        self.read_from = tuple(sources)
        self.sources = list(sources)
        self.readers = list(readers)
        self.unread = True
        self.unfinished = True

    def advance(self) -> bool:
        """Does what can be done without waiting; whether it is done."""
        return self._queue.advance(self)

    def wait(self) -> None:
        """Waits until it is done."""
        self._queue.finish(self)
