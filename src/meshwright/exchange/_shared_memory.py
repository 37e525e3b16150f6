"""Collectives between processes of one host, through memory that all of them see.

A tensor in memory that `allocate` gave is not copied: to sum it, each of the n workers adds up its n-th part of
everybody's tensor and writes the result back into all of them, piece by piece while the piece is in the cache. Per
worker and byte of payload that reads and writes one byte; a ring over sockets copies each several times.

No thread works in the background: workers compute with every core there is, so a thread would take from the backward
what it gives to the exchange. A worker moves the collectives on when it starts one, and while it waits.
"""

import os
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.errors import PlanError, WorkerError
from meshwright.exchange._segment import Segment, SegmentAddress, host_identity
from meshwright.exchange._signals import Signals
from meshwright.exchange._transport import Transfer, Transport
from meshwright.units import KIB, MIB, Bytes, Seconds

# Two operands and the result stay in a second-level cache (512 KiB and more on today's processors).
PIECE: Bytes = 128 * KIB
STAGING: Bytes = 4 * MIB
# A peer that has ended is noticed at once; one that lives may be evaluating or saving meanwhile.
TIMEOUT: Seconds = 1800.0
_READY, _DONE = 0, 1

Collective = Literal["all_reduce", "reduce", "broadcast"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Arena:
    """Memory that every worker allocated alike: `views[r]` are the bytes of worker r, seen from here."""

    start: int
    size: Bytes
    views: tuple[Tensor, ...]


class SharedMemoryTransport(Transport):
    """Collectives of processes of one host, for tensors of the CPU.

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
        self._group = dist.group.WORLD if group is None else group
        self._rank, self._size = dist.get_rank(self._group), dist.get_world_size(self._group)
        hosts = self._gathered(host_identity())
        if len(set(hosts)) > 1:
            raise WorkerError(
                f"{self._size} workers on {len(set(hosts))} hosts cannot share memory",
                alternatives=["exchange through gloo: --set transport=gloo"],
            )
        control = self._segments(Signals.size_of(self._size, kinds=2), creators=[0])[0]
        if self._rank == 0:
            Signals.prepare(control, self._size, kinds=2)
        processes = self._gathered(os.getpid())
        self._signals = Signals(control, rank=self._rank, processes=processes, timeout=timeout)
        self._arenas: list[_Arena] = []
        self._unread: deque[_SharedMemoryTransfer] = deque()
        self._unfinished: deque[_SharedMemoryTransfer] = deque()
        self._known_pieces: dict[tuple[str, int, int, torch.dtype, int], list[list[Tensor]]] = {}
        self._staging = self.allocate(STAGING, torch.uint8, torch.device("cpu"))

    @property
    def rank(self) -> int:
        """This worker's number in the group."""
        return self._rank

    @property
    def size(self) -> int:
        """Workers in the group."""
        return self._size

    def allocate(self, numel: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory that the other workers see. Every worker asks for the same, at the same time."""
        assert device.type == "cpu", device
        size = max(1, numel) * dtype.itemsize
        segments = self._segments(size, creators=range(self._size))
        views = tuple(torch.frombuffer(segment.memory, dtype=torch.uint8, count=size) for segment in segments)
        own = views[self._rank]
        self._arenas.append(_Arena(start=own.data_ptr(), size=size, views=views))
        return own.view(dtype)[:numel]

    def release(self, tensor: Tensor) -> None:
        """Forgets memory that `allocate` gave; it is freed with the last tensor in it. No collective may use it."""
        arena = self._arena(tensor)
        assert arena is not None
        self._arenas.remove(arena)
        self._known_pieces.clear()

    def all_reduce(self, tensor: Tensor) -> Transfer:
        """Sums a tensor over the workers, in place, on every worker."""
        return self._started("all_reduce", tensor, root=0)

    def reduce(self, tensor: Tensor, *, root: int) -> Transfer:
        """Sums a tensor over the workers, in place, on the root."""
        return self._started("reduce", tensor, root=root)

    def broadcast(self, tensor: Tensor, *, root: int) -> Transfer:
        """Gives every worker the root's tensor, in place."""
        return self._started("broadcast", tensor, root=root)

    def close(self) -> None:
        """Gives the shared memory back."""
        self._signals.close()
        self._arenas.clear()
        self._known_pieces.clear()

    def finish(self, transfer: "_SharedMemoryTransfer") -> None:
        """Waits for a collective, moving on those before it."""
        while not self.advanced(transfer):
            if transfer.unread:
                sources = self._unread[0].sources
                self._signals.wait(sources[-1], _READY)
                sources.pop()
            else:
                readers = self._unfinished[0].readers
                self._signals.wait(readers[-1], _DONE)
                readers.pop()

    def advanced(self, transfer: "_SharedMemoryTransfer") -> bool:
        """Does what the signals that have come allow; whether a collective is done."""
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

    def _taken(self, peers: list[int], kind: int) -> bool:
        while peers and self._signals.take(peers[-1], kind):
            peers.pop()
        return not peers

    def _started(self, collective: Collective, tensor: Tensor, *, root: int) -> "_SharedMemoryTransfer":
        if self._arena(tensor) is None:
            return self._staged(collective, tensor, root=root)
        sources, readers = self._roles(collective, root)
        transfer = _SharedMemoryTransfer(
            self, collective, self._pieces(collective, tensor, root=root), sources=sources, readers=readers
        )
        self._unread.append(transfer)
        self._unfinished.append(transfer)
        for peer in readers:
            self._signals.post(peer, _READY)
        self.advanced(transfer)
        return transfer

    def _staged(self, collective: Collective, tensor: Tensor, *, root: int) -> "_SharedMemoryTransfer":
        """Carries a tensor from anywhere through shared memory, part by part; done when it returns."""
        data = tensor.view(-1)
        staging = self._staging.view(tensor.dtype)
        transfer = _SharedMemoryTransfer(self, collective, [], sources=[], readers=[])
        for part in data.split(staging.numel()) if data.numel() else ():
            stage = staging[: part.numel()].copy_(part)
            transfer = self._started(collective, stage, root=root)
            self.finish(transfer)
            part.copy_(stage)
        transfer.unread = transfer.unfinished = False
        return transfer

    def _roles(self, collective: Collective, root: int) -> tuple[list[int], list[int]]:
        """Whose tensors this worker reads, and who reads its own."""
        everyone = [peer for peer in range(self._size) if peer != self._rank]
        if collective == "all_reduce":
            return everyone, everyone
        senders_at_root = everyone if self._rank == root else []
        at_leaf = [] if self._rank == root else [root]
        return (senders_at_root, at_leaf) if collective == "reduce" else (at_leaf, senders_at_root)

    def _pieces(self, collective: Collective, tensor: Tensor, *, root: int) -> list[list[Tensor]]:
        """The parts that this worker reads, each as every worker that takes part holds it; remembered."""
        key = (collective, tensor.data_ptr(), tensor.numel(), tensor.dtype, root)
        if key not in self._known_pieces:
            arena = self._arena(tensor)
            assert arena is not None
            assert tensor.is_contiguous(), "only contiguous tensors travel"
            offset, size = tensor.data_ptr() - arena.start, tensor.nbytes
            copies = [view[offset : offset + size].view(tensor.dtype) for view in arena.views]
            if collective == "all_reduce":
                line = 64 // tensor.itemsize
                share = -(-tensor.numel() // (self._size * line)) * line
                held = [copy[self._rank * share : (self._rank + 1) * share] for copy in copies]
            elif collective == "reduce":
                held = [copies[root], *(copy for rank, copy in enumerate(copies) if rank != root)]
            else:
                held = [copies[self._rank], copies[root]]
            length = max(1, PIECE // tensor.itemsize)
            self._known_pieces[key] = [
                list(parts) for parts in zip(*(copy.split(length) for copy in held), strict=True)
            ]
        return self._known_pieces[key]

    def _arena(self, tensor: Tensor) -> "_Arena | None":
        address = tensor.data_ptr()
        for arena in self._arenas:
            if arena.start <= address and address + tensor.nbytes <= arena.start + arena.size:
                return arena
        return None

    def _segments(self, size: Bytes, *, creators: Sequence[int]) -> list[Segment]:
        """One segment of each creator, attached by every worker."""
        own = Segment.create(size) if self._rank in creators else None
        addresses: list[SegmentAddress | None] = self._gathered(own.address if own else None)
        segments = [
            own if own and creator == self._rank else Segment.attach(cast(SegmentAddress, addresses[creator]))
            for creator in creators
        ]
        self._gathered(None)
        for segment in segments:
            segment.seal()
        return segments

    def _gathered(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self._size
        dist.all_gather_object(values, value, group=self._group)
        return values


class _SharedMemoryTransfer(Transfer):
    """A collective of this transport.

    Args:
        transport: its owner.
        collective: which.
        pieces: what this worker reads, and where it writes the result.
        sources: peers whose tensors this worker reads, once they are ready.
        readers: peers that read this worker's tensor, and say when they are done.
    """

    def __init__(
        self,
        transport: SharedMemoryTransport,
        collective: Collective,
        pieces: list[list[Tensor]],
        *,
        sources: list[int],
        readers: list[int],
    ) -> None:
        self._transport = transport
        self._collective = collective
        self._pieces = pieces
        self.read_from = tuple(sources)
        self.sources = list(sources)
        self.readers = list(readers)
        self.unread = True
        self.unfinished = True

    def read(self) -> None:
        """Combines everybody's tensors, or the part that falls to this worker."""
        if not self.read_from:
            return
        for own, *others in self._pieces:
            if self._collective == "broadcast":
                own.copy_(others[0])
                continue
            for other in others:
                own.add_(other)
            if self._collective == "all_reduce":
                for other in others:
                    other.copy_(own)

    def advance(self) -> bool:
        """Does what can be done without waiting; whether it is done."""
        return self._transport.advanced(self)

    def wait(self) -> None:
        """Waits until it is done."""
        self._transport.finish(self)
