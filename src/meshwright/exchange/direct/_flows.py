"""Messages between every two workers, both ways at once, moved by one thread."""

import selectors
import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from threading import Thread

import torch
from torch import Tensor

from meshwright.errors import WorkerError
from meshwright.exchange.direct._conversation import Conversation
from meshwright.units import MIB, Bytes

# Number of the conversation, round within it, bytes that follow.
HEADER = struct.Struct("<QIQ")
# No connection keeps the others waiting for longer than this takes.
TURN: Bytes = 1 * MIB


class Flows:
    """Holds conversations: messages belong to one by its number, and may come before it has begun here.

    A worker that is ahead sends on; what it sends is kept until the conversation begins here too. So links never stand
    still because one worker computes for longer.

    Args:
        connections: to the other workers, by rank; the flows' own from now on.
        rank: of this worker.
    """

    def __init__(self, connections: Mapping[int, socket.socket], *, rank: int) -> None:
        self._rank = rank
        self._peers = {peer: _Peer(peer, connection) for peer, connection in connections.items()}
        self._numbers = count()
        self._new: deque[tuple[int, Conversation] | None] = deque()
        self._open: dict[int, Conversation] = {}
        self._early: dict[int, list[tuple[int, int, Tensor]]] = {}
        self._failure: Exception | None = None
        self._bell, self._ear = socket.socketpair()
        self._ear.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._ear, selectors.EVENT_READ)
        for peer in self._peers.values():
            self._selector.register(peer.connection, selectors.EVENT_READ, peer)
        self._thread = Thread(target=self._work, name="meshwright-flows", daemon=True)
        self._thread.start()

    def begin(self, conversation: Conversation) -> None:
        """Every worker begins the same conversations in the same order."""
        self._new.append((next(self._numbers), conversation))
        self._bell.send(b"\0")

    def close(self) -> None:
        """Ends the thread and hangs up."""
        self._new.append(None)
        # A thread that a message woke meanwhile has heard of the end, and its ear is closed.
        with suppress(BrokenPipeError):
            self._bell.send(b"\0")
        self._thread.join()
        self._bell.close()

    @torch.no_grad()
    def _work(self) -> None:
        while self._listen():
            for key, events in self._selector.select():
                if key.data is None:
                    self._ear.recv(4096)
                    continue
                try:
                    if events & selectors.EVENT_WRITE:
                        self._push(key.data)
                    if events & selectors.EVENT_READ:
                        self._pull(key.data)
                except OSError as error:
                    self._lose(key.data, error.strerror or str(error))
                except Exception as error:
                    self._give_up(error)
        self._selector.close()
        self._ear.close()
        for peer in self._peers.values():
            peer.connection.close()

    def _listen(self) -> bool:
        """Begins what was asked for; False once it was asked to end."""
        while self._new:
            item = self._new.popleft()
            if item is None:
                return False
            number, conversation = item
            if self._failure is not None:
                conversation.fail(self._failure)
                continue
            self._open[number] = conversation
            self._do(number, conversation.begin)
            for peer, turn, message in self._early.pop(number, []):
                self._hear(number, peer, turn, message)
            self._fail_where_lost(number)
        return True

    def _do(self, number: int, step: Callable[[], None]) -> None:
        """Lets a conversation go on, and sends what it has to say."""
        conversation = self._open.get(number)
        if conversation is None:
            return
        try:
            step()
            for peer, turn, message in conversation.outgoing():
                self._say(number, peer, turn, message)
            if conversation.is_over():
                del self._open[number]
                conversation.end()
        except Exception as error:
            self._open.pop(number, None)
            conversation.fail(error)

    def _say(self, number: int, peer: int, turn: int, message: Tensor) -> None:
        state = self._peers[peer]
        if state.lost:
            raise self._gone(peer, state.lost)
        data = message.numpy().data
        state.outgoing.append((number, memoryview(HEADER.pack(number, turn, len(data)))))
        state.outgoing.append((number, data))
        self._watch(state)

    def _push(self, peer: "_Peer") -> None:
        """Hands the kernel as much as it takes."""
        spent: list[int] = []
        moved = 0
        while peer.outgoing and moved < TURN:
            try:
                sent = peer.connection.sendmsg([data for _, data in list(peer.outgoing)[:2]])
            except BlockingIOError:
                break
            moved += sent
            while peer.outgoing and sent >= len(peer.outgoing[0][1]):
                number, data = peer.outgoing.popleft()
                sent -= len(data)
                spent.append(number)
            if sent:
                number, data = peer.outgoing.popleft()
                peer.outgoing.appendleft((number, data[sent:]))
        self._watch(peer)
        for number in spent:
            conversation = self._open.get(number)
            if conversation is not None:
                self._do(number, conversation.sent)

    def _watch(self, peer: "_Peer") -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.outgoing else 0)
        if events != peer.watched and not peer.lost:
            self._selector.modify(peer.connection, events, peer)
            peer.watched = events

    def _pull(self, peer: "_Peer") -> None:
        """Takes what has come."""
        moved = 0
        while moved < TURN:
            try:
                received = peer.connection.recv_into(peer.place)
            except BlockingIOError:
                return
            if received == 0:
                self._lose(peer, "it closed the connection")
                return
            moved += received
            peer.place = peer.place[received:]
            while not len(peer.place):
                self._turn_page(peer)

    def _turn_page(self, peer: "_Peer") -> None:
        """A header or a message is complete."""
        if peer.message is None:
            number, turn, size = HEADER.unpack(peer.header)
            conversation = self._open.get(number)
            place = None if conversation is None else conversation.place(peer.rank, turn, size)
            peer.message = torch.empty(size, dtype=torch.uint8) if place is None else place
            peer.about = (number, turn)
            peer.place = peer.message.numpy().data
            return
        message, (number, turn) = peer.message, peer.about
        peer.message, peer.place = None, memoryview(peer.header)
        self._hear(number, peer.rank, turn, message)

    def _hear(self, number: int, peer: int, turn: int, message: Tensor) -> None:
        conversation = self._open.get(number)
        if conversation is None:
            self._early.setdefault(number, []).append((peer, turn, message))
            return
        self._do(number, lambda: conversation.hear(peer, turn, message))

    def _lose(self, peer: "_Peer", reason: str) -> None:
        """A worker hung up: nothing more is said to it, and who waits for it is told."""
        if peer.lost:
            return
        self._selector.unregister(peer.connection)
        peer.lost = reason
        unsent = {number for number, _ in peer.outgoing}
        peer.outgoing.clear()
        for number, conversation in list(self._open.items()):
            if number in unsent:
                del self._open[number]
                conversation.fail(self._gone(peer.rank, reason))
            self._fail_where_lost(number)

    def _fail_where_lost(self, number: int) -> None:
        """A conversation that still waits for a worker that hung up will not go on, nor will any later one."""
        for peer in self._peers.values():
            conversation = self._open.get(number)
            if peer.lost and conversation is not None and conversation.waits_for(peer.rank):
                del self._open[number]
                self._failure = self._gone(peer.rank, peer.lost)
                conversation.fail(self._failure)

    def _give_up(self, error: Exception) -> None:
        """What has come makes no sense: nothing is believed from now on, and nobody waits for it."""
        self._failure = error
        conversations = list(self._open.values())
        self._open.clear()
        for conversation in conversations:
            conversation.fail(error)
        for peer in self._peers.values():
            self._lose(peer, f"worker {self._rank} gave up: {error}")

    def _gone(self, peer: int, reason: str) -> WorkerError:
        return WorkerError(
            f"worker {self._rank} could not exchange tensors with the others: worker {peer} is gone",
            cause=reason,
            alternatives=["look for the first worker that failed: the others only notice that it is gone"],
        )


class _Peer:
    """What is under way with one other worker."""

    def __init__(self, rank: int, connection: socket.socket) -> None:
        self.rank = rank
        self.connection = connection
        self.outgoing: deque[tuple[int, memoryview]] = deque()
        self.watched = selectors.EVENT_READ
        self.header = bytearray(HEADER.size)
        self.place = memoryview(self.header)
        self.message: Tensor | None = None
        self.about = (0, 0)
        self.lost = ""
