"""Tensors that one worker holds, given to all: many small ones packed into few messages."""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from meshwright.exchange._buckets import Bucket, group
from meshwright.exchange._transport import Transfer, Transport
from meshwright.units import MIB, Bytes

# Small enough to stay in the cache between packing and unpacking.
MESSAGE: Bytes = 4 * MIB


class TensorBroadcast:
    """Gives every worker tensors of which each is held by one, its root; the same tensors again and again.

    Args:
        tensors: the same on every worker, in the same order; overwritten where this worker is not the root.
        roots: who holds each.
        transport: what carries them; nothing else uses it at the same time.
        message_size: about so much travels at once (B).
    """

    def __init__(
        self, tensors: Sequence[Tensor], roots: Sequence[int], transport: Transport, *, message_size: Bytes = MESSAGE
    ) -> None:
        self._transport = transport
        parts = [
            (part, root, number)
            for number, (tensor, root) in enumerate(zip(tensors, roots, strict=True))
            for part in _parts(tensor.detach(), message_size)
        ]
        self._parts = [part for part, _, _ in parts]
        self._numbers = [number for _, _, number in parts]
        messages = group(self._parts, range(len(parts)), size=message_size, owners=[root for _, root, _ in parts])
        self._messages = _in_turns(messages)
        largest: dict[torch.device, int] = {}
        for message in self._messages:
            size = message.numel * message.dtype.itemsize
            largest[message.device] = max(largest.get(message.device, 0), size)
        self._slots = {
            device: deque(transport.allocate(size, torch.uint8, device) for _ in range(max(2, transport.size)))
            for device, size in largest.items()
        }

    def run(self) -> None:
        """Overwrites the tensors with their roots'."""
        self._run(_overwrite)

    def run_and_compare(self) -> list[int]:
        """Overwrites the tensors with their roots', and tells which were different here."""
        different: dict[int, None] = {}

        def receive(number: int, part: Tensor, sent: Tensor) -> None:
            if not torch.equal(_bits(part), _bits(sent)):
                different[number] = None
            part.copy_(sent)

        self._run(receive)
        return list(different)

    def close(self) -> None:
        """Gives the memory of the messages back."""
        for slots in self._slots.values():
            for slot in slots:
                self._transport.release(slot)
        self._slots = {}

    @torch.no_grad()
    def _run(self, receive: Callable[[int, Tensor, Tensor], object]) -> None:
        under_way: deque[tuple[Bucket, Tensor, Transfer]] = deque()
        for message in self._messages:
            free = self._slots[message.device]
            while not free:
                self._settle(*under_way.popleft())
            slot = free.popleft()
            if message.owner == self._transport.rank:
                for member, place in self._places(message, slot):
                    place.copy_(self._parts[member])
            sent = slot[: message.numel * message.dtype.itemsize]
            take = partial(self._unpack, message, receive)
            under_way.append((message, slot, self._transport.publish(sent, root=message.owner, receive=take)))
        while under_way:
            self._settle(*under_way.popleft())

    def _unpack(self, message: Bucket, receive: Callable[[int, Tensor, Tensor], object], sent: Tensor) -> None:
        for member, place in self._places(message, sent):
            receive(self._numbers[member], self._parts[member], place)

    def _settle(self, message: Bucket, slot: Tensor, transfer: Transfer) -> None:
        transfer.wait()
        self._slots[message.device].append(slot)

    def _places(self, message: Bucket, slot: Tensor) -> list[tuple[int, Tensor]]:
        flat = slot[: message.numel * message.dtype.itemsize].view(message.dtype)
        return [
            (member, message.view(flat, position, self._parts[member]))
            for position, member in enumerate(message.members)
        ]


def _in_turns(messages: Sequence[Bucket]) -> list[Bucket]:
    """Every root's first message, then every root's second: all of them pack at the same time, then all unpack."""
    turn: dict[int, int] = {}
    turns = []
    for message in messages:
        turns.append(turn.get(message.owner, 0))
        turn[message.owner] = turns[-1] + 1
    order = sorted(range(len(messages)), key=lambda number: (turns[number], messages[number].owner))
    return [messages[number] for number in order]


def _overwrite(_: int, part: Tensor, sent: Tensor) -> None:
    part.copy_(sent)


def _parts(tensor: Tensor, size: Bytes) -> Sequence[Tensor]:
    """A tensor in parts of at most a size, where it can be cut; of an expanded tensor what it really stores."""
    stored = tensor[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in tensor.stride())]
    if stored.nbytes <= size or not stored.is_contiguous():
        return [stored]
    return stored.view(-1).split(size // stored.itemsize)


def _bits(tensor: Tensor) -> Tensor:
    """The bytes: not-a-number equals itself there."""
    return tensor.contiguous().view(-1).view(torch.uint8)
