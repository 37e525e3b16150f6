"""Messages between processes of one host: bytes put where the receiver sees them, which finds them by their number.

A sender never waits: it copies into a slot of shared memory and goes on, and takes the slot again once the receiver has
said that it is empty. A receiver copies nothing: its tensors lie in the slot, which is empty when the last one is gone.
gloo's threads would do the same over sockets, but they need a core at once, while all of them compute: measured on two
cores, 0.3 ms of the sender's time for 256 KiB and up to 5 ms until the message was there.
"""

import struct
import weakref
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.exchange.shared_memory._arenas import Arenas
from meshwright.exchange.shared_memory._segment import Segment, SegmentAddress
from meshwright.exchange.shared_memory._signals import Signals
from meshwright.units import KIB, Bytes, Seconds

# Messages from one worker to another that may be under way; more have to wait for the receiver.
ENTRIES = 2048
# What a worker writes about a message: number, slot, process, descriptor, size of the slot.
_NOTE = struct.Struct("=5q")
_RETURN = struct.Struct("=q")
_PAGE: Bytes = ENTRIES * (_NOTE.size + _RETURN.size)
_KINDS = 2
_READY, _EMPTY = range(_KINDS)
# Slots come in few sizes, so that messages of many sizes use the same ones.
_SMALLEST: Bytes = 4 * KIB
TIMEOUT: Seconds = 1800.0


@dataclass(slots=True)
class _Slot:
    """Memory of one message, on the side that made it."""

    serial: int
    segment: Segment
    view: Tensor
    is_open: bool = True


@dataclass(frozen=True, slots=True)
class _Note:
    """Where a message lies, on the side that takes it."""

    serial: int
    address: SegmentAddress


class Mailboxes:
    """Numbered messages between the workers of a group, all on one host.

    Args:
        group: the workers; all of them make it at the same time.
        timeout: how long a living worker may keep another waiting (s).

    Raises:
        WorkerError: the workers are not on one host, or there is too little memory.
    """

    def __init__(self, group: dist.ProcessGroup, *, timeout: Seconds = TIMEOUT) -> None:
        arenas = Arenas(group)
        size = arenas.size
        control = arenas.segments(Signals.size_of(size, _KINDS), creators=[0])[0]
        if arenas.rank == 0:
            Signals.prepare(control, size, _KINDS)
        # page [r][p] is written by worker r for p: notes about messages, and slots of p's that r has emptied
        self._books = arenas.segments(size * _PAGE, creators=range(size))
        self._rank = arenas.rank
        self._signals = Signals(control, rank=arenas.rank, processes=arenas.processes(), timeout=timeout)
        self._slots: dict[int, list[_Slot]] = defaultdict(list)
        self._free: dict[int, list[_Slot]] = defaultdict(list)
        self._arrived: dict[tuple[int, int], deque[_Note]] = defaultdict(deque)
        self._seen: dict[tuple[int, int], Segment] = {}
        # slots that nobody here uses any more, by who made them; their makers do not know it yet
        self._emptied: deque[tuple[int, int]] = deque()
        # by kind and other worker: how often this one has written, and read
        self._written: dict[tuple[int, int], int] = defaultdict(int)
        self._read: dict[tuple[int, int], int] = defaultdict(int)

    def num_slots(self, to: int) -> int:
        """Pieces of memory made for messages to a worker."""
        return len(self._slots[to])

    def send(self, flat: Tensor, *, to: int, number: int) -> None:
        """Puts a message where its receiver finds it.

        Args:
            flat: bytes.
            to: the worker.
            number: what the receiver asks for; where it was used before, messages are taken in the order of sending.

        Raises:
            WorkerError: no memory is left.
        """
        self.give_back()
        slot = self._slot(to, flat.numel())
        slot.view[: flat.numel()].copy_(flat)
        place = slot.segment.address
        note = (number, slot.serial, place.process, place.descriptor, place.size)
        self._write(_NOTE, note, to=to, kind=_READY)

    def receive(self, size: Bytes, *, source: int, number: int) -> Tensor:
        """Waits for a message.

        Args:
            size: of the message (B).
            source: the worker that sends it.
            number: of the message.

        Returns:
            Its bytes, where the sender put them; they are the sender's again when no tensor is left that has them.

        Raises:
            WorkerError: the other worker has ended, or does not answer.
        """
        self.give_back()
        arrived = self._arrived[source, number]
        while not arrived:
            self._signals.wait(source, _READY)
            found, serial, process, descriptor, total = self._next(_NOTE, source, kind=_READY)
            address = SegmentAddress(process=process, descriptor=descriptor, size=total)
            self._arrived[source, found].append(_Note(serial, address))
        note = arrived.popleft()
        if not arrived:
            del self._arrived[source, number]
        piece = memoryview(self._segment(source, note).memory)[:size]
        # torch holds on to the view as long as anybody has the memory; whichever thread lets go of it only notes so
        weakref.finalize(piece, self._emptied.append, (source, note.serial))
        return torch.frombuffer(piece, dtype=torch.uint8)

    def give_back(self) -> None:
        """Tells senders which of their slots are empty."""
        while self._emptied:
            source, serial = self._emptied.popleft()
            self._write(_RETURN, (serial,), to=source, kind=_EMPTY)

    def close(self) -> None:
        """Gives the memory back; what was sent to this worker and not taken is lost."""
        self._signals.close()
        self._seen.clear()
        self._slots.clear()
        self._free.clear()

    def _slot(self, to: int, size: Bytes) -> _Slot:
        while self._signals.take(to, _EMPTY):
            self._take_back(to)
        if len(self._slots[to]) - len(self._free[to]) >= ENTRIES:
            self._signals.wait(to, _EMPTY)
            self._take_back(to)
        free = self._free[to]
        fitting = min((slot for slot in free if slot.view.numel() >= size), key=_size_of, default=None)
        if fitting is not None:
            free.remove(fitting)
            return fitting
        segment = Segment.create(_size_class(size))
        view = torch.frombuffer(segment.memory, dtype=torch.uint8)
        slot = _Slot(serial=len(self._slots[to]), segment=segment, view=view)
        self._slots[to].append(slot)
        return slot

    def _take_back(self, peer: int) -> None:
        (serial,) = self._next(_RETURN, peer, kind=_EMPTY)
        slot = self._slots[peer][serial]
        if slot.is_open:
            # whoever empties it has it mapped: the way in is not needed any more
            slot.segment.seal()
            slot.is_open = False
        self._free[peer].append(slot)

    def _segment(self, source: int, note: _Note) -> Segment:
        key = (source, note.serial)
        if key not in self._seen:
            self._seen[key] = Segment.attach(note.address)
            self._seen[key].seal()
        return self._seen[key]

    def _write(self, form: struct.Struct, values: tuple[int, ...], *, to: int, kind: int) -> None:
        place = self._written[kind, to]
        self._written[kind, to] = place + 1
        form.pack_into(self._books[self._rank].memory, _place(to, kind, place), *values)
        self._signals.post(to, kind)

    def _next(self, form: struct.Struct, source: int, *, kind: int) -> tuple[Any, ...]:
        place = self._read[kind, source]
        self._read[kind, source] = place + 1
        return form.unpack_from(self._books[source].memory, _place(self._rank, kind, place))


def _place(reader: int, kind: int, number: int) -> Bytes:
    """Where a writer's book has its n-th entry of a kind for a reader."""
    first = reader * _PAGE + (ENTRIES * _NOTE.size if kind == _EMPTY else 0)
    return first + number % ENTRIES * (_RETURN.size if kind == _EMPTY else _NOTE.size)


def _size_of(slot: _Slot) -> Bytes:
    return slot.view.numel()


def _size_class(size: Bytes) -> Bytes:
    """A size to make a slot of: powers of two, and the halves between them."""
    power = _SMALLEST
    while power < size:
        power *= 2
    return power * 3 // 4 if power * 3 // 4 >= max(size, _SMALLEST) else power
