"""A graph as columns of numbers, so that pricing a strategy is arithmetic on whole columns."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from meshwright.graph import Graph, Linear, Operation
from meshwright.units import Bytes

Column = NDArray[np.float64]
Index = NDArray[np.intp]

ITEM_SIZES: dict[str, Bytes] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1, "complex64": 8, "complex128": 16,
}  # fmt: skip

_FUSIBLE = ("pointwise", "transcendental", "normalization", "reduction", "copy", "random", "view")


@dataclass(frozen=True, slots=True)
class LinearColumn:
    """A column of quantities that grow with the number of examples."""

    fixed: Column
    per_example: Column

    def at(self, examples: float) -> Column:
        """The column for a batch of `examples`."""
        return self.fixed + self.per_example * examples


@dataclass(frozen=True, slots=True)
class GradientSlot:
    """Parameters whose gradients are complete after one operation of the backward.

    Args:
        position: index into the backward's operations, -1 where none computes it.
        size: of the gradients of one instance (B).
        repeats: how many equal instances of the operation.
    """

    position: int
    size: Bytes
    repeats: int


class Workload:
    """What one training step does, as columns over the graph's operations.

    Args:
        graph: the step.
    """

    def __init__(self, graph: Graph) -> None:
        operations = graph.operations
        self.graph = graph
        self.repeats: Column = np.array([operation.repeats for operation in operations], dtype=np.float64)
        self.flops = _column([operation.flops for operation in operations])
        self.bytes_read = _column([operation.bytes_read for operation in operations])
        self.bytes_written = _column([operation.bytes_written for operation in operations])
        self.groups: dict[tuple[str, str], Index] = _groups(operations)
        self.edges = tuple(
            _column([getattr(operation.matrix, side) if operation.matrix else Linear(fixed=1.0)
                     for operation in operations])
            for side in ("rows", "inner", "columns")
        )  # fmt: skip
        self.names = np.array([operation.name for operation in operations], dtype=np.str_)
        self.allocates = np.array([item.kind != "view" and not item.name.endswith("_") for item in operations])
        self.in_forward = np.array([operation.phase == "forward" for operation in operations])
        self.forward: Index = np.flatnonzero([operation.phase == "forward" for operation in operations])
        self.backward: Index = np.flatnonzero([operation.phase == "backward" for operation in operations])

    @cached_property
    def saved(self) -> LinearColumn:
        """Every saved activation (B)."""
        return _column([item.size for item in self.graph.activations])

    @cached_property
    def mixes(self) -> NDArray[np.bool_]:
        """Which operations are attention."""
        return np.array([operation.kind == "attention" for operation in self.graph.operations], dtype=np.bool_)

    @cached_property
    def launches(self) -> Column:
        """Kernels that a host launches for every operation on an accelerator (one instance of a repeated one)."""
        counts = np.array([float(operation.kind != "view") for operation in self.graph.operations])
        for rows in self.norms:
            counts[rows] /= max(1.0, counts[rows].sum())
        return counts

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """Paths of every repeated block: what can be recomputed."""
        return tuple(path for block in self.graph.blocks for path in block.paths)

    def named(self, part: str) -> NDArray[np.bool_]:
        """Which operations have this in their name."""
        return np.array([part in operation.name for operation in self.graph.operations], dtype=np.bool_)

    def in_blocks(self, paths: tuple[str, ...]) -> NDArray[np.bool_]:
        """Which operations run inside the modules of these paths."""
        modules = [operation.module for operation in self.graph.operations]
        inside = {module: within(module, paths) for module in set(modules)}
        return np.array([inside[module] for module in modules], dtype=np.bool_)

    @cached_property
    def runs(self) -> tuple[tuple[int, int, int], ...]:
        """Stretches of the backward that repeat as a whole: first, end (positions in the backward), repeats."""
        repeats = [self.graph.operations[index].repeats for index in self.backward]
        runs: list[tuple[int, int, int]] = []
        start = 0
        for position in range(1, len(repeats) + 1):
            if position == len(repeats) or repeats[position] != repeats[start]:
                runs.append((start, position, repeats[start]))
                start = position
        return tuple(runs)

    @cached_property
    def fusible_runs(self) -> tuple[tuple[int, int], ...]:
        """Stretches of operations of one phase, as often repeated, that a compiler makes one kernel of: first, end."""
        runs: list[tuple[int, int]] = []
        start = 0
        keys = [(item.kind in _FUSIBLE, item.phase, item.repeats) for item in self.graph.operations]
        for index in range(1, len(keys) + 1):
            if index == len(keys) or keys[index] != keys[start]:
                if keys[start][0] and index - start > 1:
                    runs.append((start, index))
                start = index
        return tuple(runs)

    @cached_property
    def norms(self) -> tuple[Index, ...]:
        """Operations of each phase of every module that has parameters of its own and runs nothing but memory traffic.

        What torch computes at once on accelerators, and a capture sees in parts.
        """
        owners = {path.rpartition(".")[0] for item in self.graph.parameters for path in item.paths}
        found: dict[tuple[str, str], list[int]] = {}
        busy: set[str] = set()
        for index, item in enumerate(self.graph.operations):
            if item.module in owners:
                found.setdefault((item.module, item.phase), []).append(index)
                if item.kind not in _FUSIBLE:
                    busy.add(item.module)
        return tuple(
            np.array(rows, dtype=np.intp) for (module, _), rows in found.items() if module not in busy and len(rows) > 1
        )

    @cached_property
    def gradient_slots(self) -> tuple[GradientSlot, ...]:
        """Where in the backward each parameter's gradient is complete.

        A gradient is complete at the last operation of the backward that runs in the parameter's own module; a tied
        parameter at the last of all its modules.
        """
        last: dict[str, int] = {}
        for position, index in enumerate(self.backward):
            last[self.graph.operations[index].module] = position
        slots = []
        for parameter in self.graph.parameters:
            if not parameter.trainable:
                continue
            modules = [path.rpartition(".")[0] for path in parameter.paths]
            position = max((_last_position(module, last) for module in modules), default=-1)
            slots.append(GradientSlot(position, _size(parameter.shape, parameter.dtype), parameter.repeats))
        return tuple(slots)

    @cached_property
    def parameter_size(self) -> Bytes:
        """All parameters (B)."""
        return sum(_size(item.shape, item.dtype) * item.repeats for item in self.graph.parameters)

    @cached_property
    def gradient_size(self) -> Bytes:
        """All gradients (B)."""
        return sum(slot.size * slot.repeats for slot in self.gradient_slots)

    @cached_property
    def trainable_elements(self) -> int:
        """Elements of the parameters that are trained."""
        return sum(int(np.prod(item.shape)) * item.repeats for item in self.graph.parameters if item.trainable)

    @cached_property
    def trainable_tensors(self) -> int:
        """Parameter tensors that are trained."""
        return sum(item.repeats for item in self.graph.parameters if item.trainable)

    @cached_property
    def largest_parameter(self) -> Bytes:
        """The largest single parameter (B)."""
        return max((_size(item.shape, item.dtype) for item in self.graph.parameters), default=0)

    @cached_property
    def num_batch_norms(self) -> int:
        """BatchNorm layers that the forward runs."""
        return int(self.repeats[self.named("batch_norm") & self.in_forward].sum())

    @cached_property
    def largest_unit(self) -> Bytes:
        """Parameters that are gathered together: those of the largest block, or those outside all blocks (B)."""
        inside: dict[str, Bytes] = {}
        outside = 0
        for parameter in self.graph.parameters:
            size = _size(parameter.shape, parameter.dtype)
            block = next((path for path in self.blocks if within(parameter.paths[0], (path,))), None)
            if block is None:
                outside += size * parameter.repeats
            else:
                inside[block] = inside.get(block, 0) + size
        return max(outside, *inside.values(), 0)


def within(module: str, paths: tuple[str, ...]) -> bool:
    """Whether a module is one of these modules or lies inside one."""
    return any(module == path or module.startswith(f"{path}.") for path in paths)


def _size(shape: tuple[int, ...], dtype: str) -> Bytes:
    elements = 1
    for length in shape:
        elements *= length
    return elements * ITEM_SIZES[dtype]


def _last_position(module: str, last: dict[str, int]) -> int:
    while module not in last and module:
        module = module.rpartition(".")[0]
    return last.get(module, -1)


def _column(values: list[Linear]) -> LinearColumn:
    return LinearColumn(
        np.array([value.fixed for value in values], dtype=np.float64),
        np.array([value.per_example for value in values], dtype=np.float64),
    )


def _groups(operations: tuple[Operation, ...]) -> dict[tuple[str, str], Index]:
    groups: dict[tuple[str, str], list[int]] = {}
    for index, operation in enumerate(operations):
        groups.setdefault((operation.kind, operation.dtype), []).append(index)
    return {key: np.array(indices, dtype=np.intp) for key, indices in groups.items()}
