"""One recorded step at one batch size, and two of them as quantities for any batch size."""

from collections.abc import Callable
from dataclasses import dataclass

from meshwright.graph._graph import Activation, Block, Linear, MatrixShape, Operation
from meshwright.graph.capture_lifetimes import Allocation, Event, highest_level
from meshwright.graph.capture_recorder import Call
from meshwright.graph.capture_replay import FirstInstance

_FASTER = 1.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """What one step did.

    Args:
        examples: in its batch.
        calls: its operations in order.
        allocations: every storage that it made.
        events: when they came and went.
        gradients: the storages that hold gradients at the end.
        blocks: repeated blocks that were captured.
        weighted: whether the loss returned `(total, weight)`.
        batch_bytes: B.
        traits: facts seen while it ran, each with the module that it was seen in.
    """

    examples: int
    calls: tuple[Call, ...]
    allocations: tuple[Allocation, ...]
    events: tuple[Event, ...]
    gradients: tuple[Allocation, ...]
    blocks: tuple[FirstInstance, ...]
    weighted: bool
    batch_bytes: int
    traits: frozenset[tuple[str, str]]

    @property
    def peak(self) -> int:
        """Most that is alive at one time (B)."""
        return highest_level(self.events, self.allocations)

    @property
    def transient(self) -> int:
        """Most that is alive at one time and neither saved for the backward nor a gradient (B)."""
        gradients = {id(entry) for entry in self.gradients}
        return highest_level(
            self.events, (entry for entry in self.allocations if not entry.kept and id(entry) not in gradients)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedStorage:
    """An activation of one recording; like `Activation`, at one batch size."""

    module: str
    size: int
    created: int
    freed: int
    repeats: int


def saved_storages(recording: Recording) -> list[SavedStorage]:
    """What the forward saves for the backward; equal outputs of replayed blocks stand once."""
    found: dict[object, SavedStorage] = {}
    last = max(len(recording.calls) - 1, 0)
    for number, entry in enumerate(recording.allocations):
        if not entry.kept or entry.lump is not None or entry.size == 0:
            continue
        module = entry.saved_by if entry.saved_by is not None else entry.module
        freed = last if entry.freed is None else entry.freed
        if entry.freed_by_replay is not None:
            freed = entry.freed_by_replay.last_backward
        inside = entry.record if entry.output is None else None
        key: object = number
        if entry.output is not None and entry.freed_by_replay is not None:
            key = (id(entry.output[0]), entry.output[1], id(entry.freed_by_replay))
        before = found.get(key)
        found[key] = SavedStorage(
            module=module if before is None else before.module,
            size=entry.size,
            created=entry.created if before is None else before.created,
            freed=freed,
            repeats=(before.repeats + 1) if before is not None else inside.calls if inside is not None else 1,
        )
    return list(found.values())


def aligned(one: Recording, other: Recording) -> bool:
    """Whether two recordings have the same operations and the same saved storages, one to one."""
    return [_identity(call) for call in one.calls] == [_identity(call) for call in other.calls] and [
        (storage.module, storage.repeats) for storage in saved_storages(one)
    ] == [(storage.module, storage.repeats) for storage in saved_storages(other)]


class Scaling:
    """Two recordings as one; where their operations differ, quantities are taken as proportional to the examples.

    With values \\(q(B)\\) and \\(q(B')\\): per example \\((q(B) - q(B')) / (B - B')\\), the rest fixed. A quantity that
    grows faster than the batch would have a negative fixed part below one example; it is taken as proportional.
    """

    def __init__(self, whole: Recording, other: Recording) -> None:
        self.whole = whole
        self.aligned = aligned(whole, other)
        self.other = other

    def linear(self, value: float, second: float) -> Linear:
        """The quantity that was `value` in the whole batch and `second` in the other one."""
        examples, others = self.whole.examples, self.other.examples
        if value == second:
            return Linear(fixed=float(value))
        slope = (value - second) / (examples - others)
        fixed = value - slope * examples
        if fixed + slope < 0 or slope < 0:
            return Linear(per_example=value / examples)
        return Linear(fixed=fixed, per_example=slope)

    def of(self, quantity: Callable[[Recording], float]) -> Linear:
        """A quantity of the whole recording."""
        return self.linear(quantity(self.whole), quantity(self.other))

    def operations(self) -> tuple[Operation, ...]:
        """Every operation in order of execution."""
        others = self.other.calls if self.aligned else self.whole.calls
        return tuple(self._operation(call, second) for call, second in zip(self.whole.calls, others, strict=True))

    def activations(self) -> tuple[Activation, ...]:
        """Everything that the forward saves for the backward."""
        mine = saved_storages(self.whole)
        others = saved_storages(self.other) if self.aligned else mine
        return tuple(
            Activation(
                module=storage.module,
                size=self._fit(storage.size, second.size),
                created=storage.created,
                freed=storage.freed,
                repeats=storage.repeats,
            )
            for storage, second in zip(mine, others, strict=True)
        )

    def blocks(self) -> tuple[Block, ...]:
        """Every repeated block with at least two instances that ran; needs aligned recordings to know growth."""
        others = self.other.blocks if self.aligned else self.whole.blocks
        return tuple(
            Block(
                paths=tuple(first.record.paths),
                kind=first.kind,
                input_size=self._fit(first.input_size, second.input_size),
            )
            for first, second in zip(self.whole.blocks, others, strict=True)
            if len(first.record.paths) > 1
        )

    def gaps(self) -> tuple[str, ...]:
        """What the line through two batch sizes does not say."""
        sizes = f"{self.whole.examples} and {self.other.examples} examples"
        if not self.aligned:
            return (
                f"with {sizes} the step runs {len(self.whole.calls)} and {len(self.other.calls)} operations, not the "
                "same ones; all quantities are taken as proportional to the number of examples",
            )
        if self.whole.examples == self.other.examples:
            return (f"the step runs with {self.whole.examples} examples only; no quantity is known for other sizes",)
        large, small = sorted((self.whole, self.other), key=lambda recording: -recording.examples)
        ratio = large.examples / small.examples
        places = dict.fromkeys(
            call.module or "the loss"
            for call, second in zip(large.calls, small.calls, strict=True)
            if call.cost.bytes_written > _FASTER * ratio * second.cost.bytes_written > 0
        )
        if not places:
            return ()
        return (
            f"grows faster than the number of examples: {', '.join(places)}; "
            f"quantities are too low for more than {self.whole.examples} examples",
        )

    def _fit(self, value: float, second: float) -> Linear:
        if not self.aligned:
            return Linear(per_example=value / self.whole.examples)
        return self.linear(value, second)

    def _operation(self, call: Call, second: Call) -> Operation:
        matrix = None
        if call.cost.matrix is not None and second.cost.matrix is not None:
            batch, rows, inner, columns = map(self._fit, call.cost.matrix, second.cost.matrix)
            matrix = MatrixShape(batch=batch, rows=rows, inner=inner, columns=columns)
        return Operation(
            name=call.known.name,
            kind=call.known.kind,
            phase=call.phase,
            module=call.module,
            dtype=call.cost.dtype,
            repeats=1 if call.record is None else call.record.calls,
            flops=self._fit(call.cost.flops, second.cost.flops),
            bytes_read=self._fit(call.cost.bytes_read, second.cost.bytes_read),
            bytes_written=self._fit(call.cost.bytes_written, second.cost.bytes_written),
            matrix=matrix,
        )


def _identity(call: Call) -> tuple[object, ...]:
    repeats = 1 if call.record is None else call.record.calls
    return call.known.name, call.phase, call.module, repeats
