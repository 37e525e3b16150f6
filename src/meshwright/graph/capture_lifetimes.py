"""When each storage of a step is allocated and freed, and what that makes at the peak.

A storage counts once, however many views it has. Blocks that are replayed instead of captured (`capture_blocks`) put
one lump in the place of what they would save; what they would need besides is added at the peak, from the first
instance's own lifetimes.
"""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from meshwright.graph._graph import Phase

StorageKey = int


@dataclass(kw_only=True, slots=True, eq=False)
class BlockRecord:
    """A repeated block's first instance, while it is captured.

    Args:
        path: of the first instance.
        paths: of every instance that ran so far.
        with_gradients: whether autograd was on.
        calls: how often it ran, replays included.
        left: what it leaves behind besides its outputs when it returns, saved or held by somebody (B).
        last_backward: index of the last operation of its backward.
        shared: sizes of inputs that other instances are given too, and that have gradients (B).
    """

    path: str
    paths: list[str]
    with_gradients: bool
    calls: int = 1
    left: int = 0
    last_backward: int = 0
    shared: set[int] = field(default_factory=set)


@dataclass(kw_only=True, slots=True, eq=False)
class Allocation:
    """One storage.

    Args:
        size: B.
        created: index of the operation that made it.
        module: path of the module that made it.
        phase: in which it was made.
        record: the repeated block that made it.
        saved_by: path of the module that saves it for the backward; None when none did.
        freed: index of the last operation before it was freed; None while it is alive.
        freed_by_replay: the block in whose replayed backward it was freed.
        kept: whether it is alive when the backward begins.
        lump: the repeated block, all of whose savings it stands for; its size is known when the backward begins.
        output: the repeated block, and which of its outputs it is.
    """

    size: int
    created: int
    module: str
    phase: Phase
    record: BlockRecord | None = None
    saved_by: str | None = None
    freed: int | None = None
    freed_by_replay: BlockRecord | None = None
    kept: bool = False
    lump: BlockRecord | None = None
    output: tuple[BlockRecord, int] | None = None
    watch: object = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """A change of what is alive, or (size 0) the moment at which a block begins or is replayed."""

    kind: Literal["allocate", "free", "begin", "replay"]
    phase: Phase
    allocation: Allocation | None = None
    record: BlockRecord | None = None


class Ledger:
    """Writes down every storage from its allocation to its end."""

    def __init__(self, outside: Iterable[Tensor]) -> None:
        """Starts a ledger.

        Args:
            outside: tensors that are there before and after the step (parameters, buffers, batch): not counted.
        """
        self._outside = {storage_key(tensor) for tensor in outside}
        self._alive: dict[StorageKey, Allocation] = {}
        self.allocations: list[Allocation] = []
        self.events: list[Event] = []
        self._held: list[Allocation] = []
        self.index = 0
        self.phase: Phase = "forward"
        self.replaying: BlockRecord | None = None

    def enter(self, tensor: Tensor, module: str, record: BlockRecord | None) -> None:
        """Enters a tensor's storage, unless it is known or from outside."""
        key = storage_key(tensor)
        if key not in self._alive and key not in self._outside:
            self.allocate(tensor, module, record)

    def allocate(self, tensor: Tensor, module: str, record: BlockRecord | None) -> Allocation:
        """Enters the storage of a tensor that was made just now."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        entry = Allocation(size=storage.nbytes(), created=self.index, module=module, phase=self.phase, record=record)
        entry.watch = weakref.ref(storage, lambda _: self._free(key))
        self._alive[key] = entry
        self.allocations.append(entry)
        self.events.append(Event(kind="allocate", phase=self.phase, allocation=entry, record=record))
        return entry

    def hold(self, record: BlockRecord, module: str) -> None:
        """Enters what a replayed block leaves behind and does not save: taken as held until the forward ends."""
        entry = Allocation(size=record.left, created=self.index, module=module, phase=self.phase)
        entry.lump = record
        self._held.append(entry)
        self.allocations.append(entry)
        self.events.append(Event(kind="allocate", phase=self.phase, allocation=entry))

    def left_by(self, record: BlockRecord) -> int:
        """What a block has made that is still alive, its outputs left out (B)."""
        return sum(entry.size for entry in self._alive.values() if entry.record is record and entry.output is None)

    def save(self, tensor: Tensor, module: str) -> None:
        """Notes that `module` saves a tensor for the backward; the first one to do so counts."""
        entry = self.of(tensor)
        if entry is not None and entry.saved_by is None:
            entry.saved_by = module

    def of(self, tensor: Tensor) -> Allocation | None:
        """The entry of a tensor's storage; None for parameters, buffers and the batch."""
        return self._alive.get(storage_key(tensor)) if tensor.layout == torch.strided else None

    def mark(self, kind: Literal["begin", "replay"], record: BlockRecord) -> None:
        """Writes down that a block begins, or is replayed, now."""
        self.events.append(Event(kind=kind, phase=self.phase, record=record))

    def begin_backward(self, loss: Tensor) -> None:
        """What is alive now, but for the loss, is what the forward saves."""
        result = self.of(loss)
        for entry in self._alive.values():
            entry.kept = entry is not result
        savings: dict[int, int] = {}
        for entry in self._alive.values():
            if entry.kept and entry.record is not None and entry.output is None:
                savings[id(entry.record)] = savings.get(id(entry.record), 0) + entry.size
        for entry in self._alive.values():
            if entry.lump is not None:
                entry.size = savings.get(id(entry.lump), 0)
        for entry in self._held:
            entry.size -= savings.get(id(entry.lump), 0)
            self.events.append(Event(kind="free", phase=self.phase, allocation=entry))
        self.phase = "backward"

    def close(self) -> None:
        """Ends the ledger: what is freed from now on is no part of the step."""
        self._alive.clear()

    def _free(self, key: StorageKey) -> None:
        entry = self._alive.pop(key, None)
        if entry is None:
            return
        entry.freed = max(self.index - 1, 0)
        entry.freed_by_replay = self.replaying
        self.events.append(Event(kind="free", phase=self.phase, allocation=entry))


def storage_key(tensor: Tensor) -> StorageKey:
    """What tells one storage from another while it is alive."""
    return tensor.untyped_storage()._cdata


def highest_level(events: Iterable[Event], counted: Iterable[Allocation]) -> int:
    """The most of the counted storages that is alive at one time (B).

    A replayed block adds, on top of what is alive when it starts, what its first instance needed at most on top of
    what was alive when that one started, in the same phase.
    """
    included = {id(entry) for entry in counted}
    level = peak = 0
    starts: dict[tuple[int, Phase], int] = {}
    needs: dict[tuple[int, Phase], int] = {}
    replays: list[tuple[int, tuple[int, Phase]]] = []
    for event in events:
        block = (id(event.record), event.phase)
        if event.kind == "begin":
            starts[block] = level
        elif event.kind == "replay":
            replays.append((level, block))
        elif event.allocation is not None and id(event.allocation) in included:
            level += event.allocation.size if event.kind == "allocate" else -event.allocation.size
            peak = max(peak, level)
            if event.record is not None and block in starts:
                needs[block] = max(needs.get(block, 0), level - starts[block])
    return max([peak, *(start + needs.get(block, 0) for start, block in replays)])
