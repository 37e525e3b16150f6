"""What the workers say to each other in one collective, whoever carries it."""

from abc import abstractmethod
from collections.abc import Iterator
from threading import Event

from torch import Tensor

from meshwright.errors import WorkerError
from meshwright.exchange._transport import Transfer
from meshwright.units import Seconds


class Conversation(Transfer):
    """One worker's part of a collective: messages that it sends and hears, in rounds.

    `begin`, `hear` and what follows run on the thread that carries the messages, `last` on the one that waits.

    Args:
        rank: of this worker.
        size: workers.
        timeout: how long `wait` waits (s).
    """

    def __init__(self, *, rank: int, size: int, timeout: Seconds) -> None:
        self.rank = rank
        self.size = size
        self.others = [other for other in range(size) if other != rank]
        self._timeout = timeout
        self._outbox: list[tuple[int, int, Tensor]] = []
        self._unsent = 0
        self._missing: set[tuple[int, int]] = set()
        self._over = Event()
        self._error: BaseException | None = None

    @abstractmethod
    def begin(self) -> None:
        """Says what can be said, and what will be heard: with `say` and `await_from`."""

    @abstractmethod
    def heard(self, peer: int, turn: int, message: Tensor) -> None:
        """Takes one message."""

    def complete(self) -> None:
        """Everything was sent and heard: makes the result, where it is not there yet."""

    def place(self, peer: int, turn: int, size: int) -> Tensor | None:
        """Where a message may be written right away; None: it needs memory of its own."""
        del peer, turn, size

    def last(self) -> None:
        """What the waiting thread still has to do, once."""

    def say(self, peer: int, turn: int, message: Tensor) -> None:
        """Sends bytes, which stay as they are until everything is sent."""
        self._outbox.append((peer, turn, message))

    def await_from(self, peer: int, turn: int) -> None:
        """A message will come."""
        self._missing.add((peer, turn))

    def waits_for(self, peer: int) -> bool:
        """Whether a worker still has something to say."""
        return any(other == peer for other, _ in self._missing)

    def outgoing(self) -> Iterator[tuple[int, int, Tensor]]:
        """What is to be sent now: to whom, in which round, bytes."""
        while self._outbox:
            self._unsent += 2
            yield self._outbox.pop(0)

    def sent(self) -> None:
        """A message's header or body has left."""
        self._unsent -= 1

    def hear(self, peer: int, turn: int, message: Tensor) -> None:
        """A message has come."""
        if (peer, turn) not in self._missing:
            raise WorkerError(
                f"worker {self.rank} got a message from worker {peer} that it did not expect",
                cause="the workers do not run the same steps in the same order",
            )
        self._missing.discard((peer, turn))
        self.heard(peer, turn, message)

    def is_over(self) -> bool:
        """Whether all was said and heard."""
        return not (self._missing or self._outbox or self._unsent)

    def end(self) -> None:
        """Makes the result and wakes who waits."""
        self.complete()
        self._over.set()

    def fail(self, error: BaseException) -> None:
        """Wakes who waits, with an error."""
        self._error = error
        self._over.set()

    def advance(self) -> bool:
        """Whether it is over; it needs no help."""
        return self._over.is_set()

    def wait(self) -> None:
        """Waits until it is over."""
        if not self._over.wait(self._timeout):
            late = sorted({peer for peer, _ in self._missing})
            raise WorkerError(
                f"workers {late} did not answer worker {self.rank} for {self._timeout:.0f} s",
                cause="they wait for something else, or their hosts are gone",
                alternatives=["look at the output of these workers", "--set transport=gloo"],
            )
        if self._error is not None:
            raise self._error
        self.last()
