"""Collectives between processes of one host, through memory that all of them see.

A tensor in memory that `allocate` gave is not copied: to sum it, each of the n workers adds up its n-th part of
everybody's tensor and writes the result back into all of them, piece by piece while the piece is in the cache. Per
worker and byte of payload that reads and writes one byte; a ring over sockets copies each several times.

No thread works in the background: workers compute with every core there is, so a thread would take from the backward
what it gives to the exchange. A worker moves the collectives on when it starts one, and while it waits.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.errors import PlanError
from meshwright.exchange._transport import Receive, Transfer, Transport
from meshwright.exchange.shared_memory._arenas import Arenas
from meshwright.exchange.shared_memory._queue import KINDS, TransferQueue
from meshwright.exchange.shared_memory._signals import Signals
from meshwright.units import KIB, MIB, Bytes, Seconds

# Two operands and the result stay in a second-level cache (512 KiB and more on today's processors).
PIECE: Bytes = 128 * KIB
STAGING: Bytes = 4 * MIB
# A peer that has ended is noticed at once; one that lives may be evaluating or saving meanwhile.
TIMEOUT: Seconds = 1800.0

Collective = Literal["all_reduce", "broadcast"]
# The tensors that are read together, each as one worker holds it.
Pieces = list[list[Tensor]]


class SharedMemoryTransport(Transport):
    """Collectives of processes of one host, for tensors of the CPU.

    Tensors from elsewhere than `allocate` are carried through a staging area, and are done when the call returns.

    Args:
        group: the workers; None: all of them.
        timeout: how long a living worker may keep the others waiting (s).

    Raises:
        PlanError: this is not Linux.
        WorkerError: the workers are not on one host, or there is too little memory.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, *, timeout: Seconds = TIMEOUT) -> None:
        if sys.platform != "linux":
            raise PlanError(
                f"shared_memory does not work on {sys.platform}",
                cause="it needs Linux's anonymous shared files and semaphores between processes",
                alternatives=["exchange through gloo: --set transport=gloo"],
            )
        super().__init__(group)
        self._arenas = Arenas(group)
        self._everyone = [peer for peer in range(self.size) if peer != self.rank]
        control = self._arenas.segments(Signals.size_of(self.size, KINDS), creators=[0])[0]
        if self.rank == 0:
            Signals.prepare(control, self.size, KINDS)
        processes = self._arenas.processes()
        self._queue = TransferQueue(Signals(control, rank=self.rank, processes=processes, timeout=timeout))
        self._known_pieces: dict[tuple[int, int, torch.dtype], Pieces] = {}
        self._staging = self.allocate(STAGING, torch.uint8, torch.device("cpu"))

    def allocate(self, numel: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory that the other workers see. Every worker asks for the same, at the same time."""
        assert device.type == "cpu", device
        return self._arenas.allocate(numel, dtype)

    def release(self, tensor: Tensor) -> None:
        """Forgets memory that `allocate` gave; it is freed with the last tensor in it. No collective may use it."""
        self._arenas.release(tensor)
        self._known_pieces.clear()

    def all_reduce(self, tensor: Tensor) -> Transfer:
        """Sums a tensor over the workers, in place, on every worker."""
        return self._started("all_reduce", tensor, root=0)

    def broadcast(self, tensor: Tensor, *, root: int) -> Transfer:
        """Gives every worker the root's tensor, in place."""
        return self._started("broadcast", tensor, root=root)

    def publish(self, tensor: Tensor, *, root: int, receive: Receive) -> Transfer:
        """Shows the root's tensor to all others, where it lies."""
        if self.rank == root:
            return self._queue.start(_nothing, sources=(), readers=self._everyone)
        shown = self._arenas.copies(tensor)[root]
        return self._queue.start(partial(receive, shown), sources=(root,), readers=())

    def collect(self, tensor: Tensor, *, root: int, receive: Receive) -> Transfer:
        """Shows the others' tensors to the root one by one, where they lie."""
        if self.rank != root:
            return self._queue.start(_nothing, sources=(), readers=(root,))
        copies = self._arenas.copies(tensor)
        shown = [copies[peer] for peer in self._everyone]
        return self._queue.start(lambda: [receive(copy) for copy in shown], sources=self._everyone, readers=())

    def all_gather(self, whole: Tensor, part: Tensor) -> None:
        """Puts every worker's part into the whole, in the order of the ranks."""
        staging = self._staging.view(part.dtype)
        for start, stop in _spans(part.numel(), staging.numel()):
            copies = self._arenas.copies(staging[: stop - start].copy_(part[start:stop]))
            begins = [rank * part.numel() + start for rank in range(self.size)]
            pieces = [[whole[begin : begin + stop - start], copy] for begin, copy in zip(begins, copies, strict=True)]
            self._exchanged(partial(_overwrite, pieces))

    def reduce_scatter(self, part: Tensor, whole: Tensor) -> None:
        """Sums everybody's whole; each worker gets its part, in the order of the ranks."""
        staging = self._staging.view(part.dtype)
        lane = staging.numel() // self.size
        for start, stop in _spans(part.numel(), lane):
            for rank in range(self.size):
                begin = rank * part.numel() + start
                staging[rank * lane : rank * lane + stop - start].copy_(whole[begin : begin + stop - start])
            own_lane = staging[self.rank * lane : self.rank * lane + stop - start]
            pieces = _cut([part[start:stop], *self._arenas.copies(own_lane)])
            self._exchanged(partial(_sum_elsewhere, pieces))

    def all_to_all(self, received: Tensor, sent: Tensor, *, counts: Sequence[Sequence[int]]) -> None:
        """Hands every worker its range of a flat tensor; what arrives lies in the order of the senders.

        Args:
            received: all that is for this worker.
            sent: ranges for the workers, in the order of their ranks.
            counts: elements by sender and receiver, the same on all workers.
        """
        staging = self._staging.view(sent.dtype)
        begins = [sum(row[: self.rank]) for row in counts]
        places = [sum(row[self.rank] for row in counts[:peer]) for peer in range(self.size)]
        begin, own = begins[self.rank], counts[self.rank][self.rank]
        received.narrow(0, places[self.rank], own).copy_(sent.narrow(0, begin, own))
        for start, stop in _spans(max(map(sum, counts)), staging.numel()):
            for low, high in ((start, min(stop, begin)), (max(start, begin + own), min(stop, sent.numel()))):
                if low < high:
                    staging[low - start : high - start].copy_(sent[low:high])
            pieces = []
            for peer in self._everyone:
                low = max(start, begins[peer])
                high = min(stop, begins[peer] + counts[peer][self.rank])
                if low < high:
                    place = places[peer] + low - begins[peer]
                    there = self._arenas.copies(staging[low - start : high - start])[peer]
                    pieces.append([received[place : place + high - low], there])
            self._exchanged(partial(_overwrite, pieces))

    def close(self) -> None:
        """Gives the shared memory back."""
        self._queue.close()
        self._arenas.clear()
        self._known_pieces.clear()

    def _exchanged(self, read: Callable[[], object]) -> None:
        """Everybody reads everybody's staging area."""
        self._queue.start(read, sources=self._everyone, readers=self._everyone).wait()

    def _started(self, collective: Collective, tensor: Tensor, *, root: int) -> Transfer:
        if not self._arenas.holds(tensor):
            return self._staged(collective, tensor, root=root)
        if collective == "all_reduce":
            sum_up = partial(_sum_into_all, self._pieces(tensor))
            return self._queue.start(sum_up, sources=self._everyone, readers=self._everyone)
        return self.publish(tensor, root=root, receive=tensor.copy_)

    def _staged(self, collective: Collective, tensor: Tensor, *, root: int) -> Transfer:
        """Carries a tensor from anywhere through shared memory, part by part."""
        data = tensor.view(-1)
        staging = self._staging.view(tensor.dtype)
        for start, stop in _spans(data.numel(), staging.numel()):
            stage = staging[: stop - start].copy_(data[start:stop])
            if collective == "all_reduce" and self.size == 2:
                # a sum of two is the same in either order, and needs no way back
                other = self._arenas.copies(stage)[1 - self.rank]
                self._exchanged(partial(data[start:stop].add_, other))
                continue
            self._started(collective, stage, root=root).wait()
            data[start:stop].copy_(stage)
        return self._queue.start(_nothing, sources=(), readers=())

    def _pieces(self, tensor: Tensor) -> Pieces:
        """The part of a tensor that this worker sums, as every worker holds it; remembered."""
        key = (tensor.data_ptr(), tensor.numel(), tensor.dtype)
        if key not in self._known_pieces:
            line = 64 // tensor.itemsize
            share = -(-tensor.numel() // (self.size * line)) * line
            copies = self._arenas.copies(tensor)
            self._known_pieces[key] = _cut([copy[self.rank * share : (self.rank + 1) * share] for copy in copies])
        return self._known_pieces[key]


def _spans(numel: int, length: int) -> Iterator[tuple[int, int]]:
    for start in range(0, numel, length):
        yield start, min(start + length, numel)


def _cut(tensors: Sequence[Tensor]) -> Pieces:
    """Tensors of one length in pieces that fit the cache together."""
    length = PIECE // tensors[0].itemsize
    return [list(parts) for parts in zip(*(tensor.split(length) for tensor in tensors), strict=True)]


def _sum_into_all(pieces: Pieces) -> None:
    for first, *others in pieces:
        for other in others:
            first.add_(other)
        for other in others:
            other.copy_(first)


def _sum_elsewhere(pieces: Pieces) -> None:
    for result, first, *others in pieces:
        result.copy_(first)
        for other in others:
            result.add_(other)


def _overwrite(pieces: Pieces) -> None:
    for own, other in pieces:
        own.copy_(other)


def _nothing() -> None:
    pass
