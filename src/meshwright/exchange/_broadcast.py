"""Tensors that one worker holds, given to all: many small ones packed into few messages."""

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from meshwright.exchange._buckets import Bucket, group
from meshwright.exchange._transport import Transfer, Transport
from meshwright.units import Bytes

# One message travels while the next is packed.
SLOTS = 2


class TensorBroadcast:
    """Gives every worker tensors of which each is held by one, its root; the same tensors again and again.

    Args:
        tensors: the same on every worker, in the same order; overwritten where this worker is not the root.
        roots: who holds each.
        transport: what carries them; nothing else uses it at the same time.
        message_size: about so much travels at once (B).
    """

    def __init__(
        self, tensors: Sequence[Tensor], roots: Sequence[int], transport: Transport, *, message_size: Bytes
    ) -> None:
        self._transport = transport
        parts = [
            (part, root, number)
            for number, (tensor, root) in enumerate(zip(tensors, roots, strict=True))
            for part in _parts(tensor.detach(), message_size)
        ]
        self._parts = [part for part, _, _ in parts]
        self._numbers = [number for _, _, number in parts]
        self._messages = group(self._parts, range(len(parts)), size=message_size, owners=[root for _, root, _ in parts])
        largest: dict[torch.device, int] = {}
        for message in self._messages:
            size = message.numel * message.dtype.itemsize
            largest[message.device] = max(largest.get(message.device, 0), size)
        self._slots = {
            device: deque(transport.allocate(size, torch.uint8, device) for _ in range(SLOTS))
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
                self._unpack(*under_way.popleft(), receive)
            slot = free.popleft()
            if message.owner == self._transport.rank:
                self._pack(message, slot)
            size = message.numel * message.dtype.itemsize
            under_way.append((message, slot, self._transport.broadcast(slot[:size], root=message.owner)))
        while under_way:
            self._unpack(*under_way.popleft(), receive)

    def _pack(self, message: Bucket, slot: Tensor) -> None:
        for member, place in self._places(message, slot):
            place.copy_(self._parts[member])

    def _unpack(
        self, message: Bucket, slot: Tensor, transfer: Transfer, receive: Callable[[int, Tensor, Tensor], object]
    ) -> None:
        transfer.wait()
        if message.owner != self._transport.rank:
            for member, place in self._places(message, slot):
                receive(self._numbers[member], self._parts[member], place)
        self._slots[message.device].append(slot)

    def _places(self, message: Bucket, slot: Tensor) -> list[tuple[int, Tensor]]:
        flat = slot[: message.numel * message.dtype.itemsize].view(message.dtype)
        return [
            (member, message.view(flat, position, self._parts[member]))
            for position, member in enumerate(message.members)
        ]


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
