"""A model as a row of units, from which stages are made: what comes first, every block, what comes last.

Blocks of one kind were captured once, so a unit is an index of its kind; whatever is added up over units is added up by
kind first.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshwright.cost._workload import ITEM_SIZES, Column, Index, within
from meshwright.graph import Graph, Linear, Parameter, instances


@dataclass(frozen=True, kw_only=True, slots=True)
class Units:
    """A model's units in the order of execution.

    Args:
        kinds: kind of every unit: 0 is what comes first, 1 to n the blocks' kinds, n + 1 what comes last.
        paths: module whose first operation begins the unit; empty for the first.
        cuts: units with which a stage may begin, and what crosses to it (B).
        num_kinds: how many there are.
        operations: kind of every operation.
        times: how often one unit runs each operation.
        parameters: kind of every parameter.
        held: how often one unit has each parameter.
        activations: kind of every activation.
        saved: how often one unit saves each activation.
    """

    kinds: Index
    paths: tuple[str, ...]
    cuts: Mapping[int, Linear]
    num_kinds: int
    operations: Index
    times: Column
    parameters: Index
    held: Column
    activations: Index
    saved: Column

    @property
    def is_block(self) -> NDArray[np.bool_]:
        """Which units are instances of blocks, and can be computed again as one."""
        return (self.kinds > 0) & (self.kinds < self.num_kinds - 1)

    def by_kind(self, values: Column, kinds: Index, times: Column) -> Column:
        """Sums of something per operation, parameter or activation over one unit of each kind."""
        return np.bincount(kinds, weights=values * times, minlength=self.num_kinds).astype(np.float64)


def units_of(graph: Graph) -> Units:
    """The units of a graph."""
    last = len(graph.blocks) + 1
    every = instances(graph)
    before = _modules_before(graph)
    operations = [_kind(graph, item.module, before, last) for item in graph.operations]
    parameters = [_parameter_kind(graph, item, before, last) for item in graph.parameters]
    activations = [_kind(graph, item.module, before, last) for item in graph.activations]
    counts = np.array([1, *(len(block.paths) for block in graph.blocks), 1], dtype=np.float64)
    legal = {cut.path: cut.size for cut in graph.splits.cuts} if graph.splits is not None else {}
    after = next((path for path in reversed(legal) if path not in {item.path for item in every}), "<last>")
    paths = ("", *(item.path for item in every), after)
    return Units(
        kinds=np.array([0, *(item.block + 1 for item in every), last], dtype=np.intp),
        paths=paths,
        cuts={index: legal[path] for index, path in enumerate(paths) if path in legal},
        num_kinds=last + 1,
        operations=np.array(operations, dtype=np.intp),
        times=_per_unit([item.repeats for item in graph.operations], operations, counts),
        parameters=np.array(parameters, dtype=np.intp),
        held=_per_unit([item.repeats for item in graph.parameters], parameters, counts),
        activations=np.array(activations, dtype=np.intp),
        saved=_per_unit([item.repeats for item in graph.activations], activations, counts),
    )


def parameter_bytes(graph: Graph) -> Column:
    """Bytes of one instance of every parameter."""
    return np.array([_elements(item) * ITEM_SIZES[item.dtype] for item in graph.parameters], dtype=np.float64)


def trained_elements(graph: Graph) -> Column:
    """Elements of one instance of every parameter, 0 where it is frozen."""
    return np.array([_elements(item) * item.trainable for item in graph.parameters], dtype=np.float64)


def gradient_bytes(graph: Graph) -> Column:
    """Bytes of the gradient of one instance of every parameter."""
    return np.array(
        [_elements(item) * ITEM_SIZES[item.dtype] * item.trainable for item in graph.parameters], dtype=np.float64
    )


def _elements(item: Parameter) -> float:
    return float(np.prod(item.shape)) if item.shape else 1.0


def _modules_before(graph: Graph) -> set[str]:
    """Modules outside of blocks of which the forward meets an operation before the first block."""
    paths = tuple(block.paths[0] for block in graph.blocks)
    found: set[str] = set()
    for item in graph.operations:
        if item.phase != "forward" or within(item.module, paths):
            break
        found.add(item.module)
    return found - {""} if paths else set()


def _kind(graph: Graph, module: str, before: set[str], last: int) -> int:
    for number, block in enumerate(graph.blocks, start=1):
        if within(module, block.paths):  # an input that is saved belongs to the instance that it is an input of
            return number
    return 0 if module in before else last


def _parameter_kind(graph: Graph, item: Parameter, before: set[str], last: int) -> int:
    return _kind(graph, item.paths[0].rpartition(".")[0], before, last)


def _per_unit(repeats: list[int], kinds: list[int], counts: Column) -> Column:
    return np.array(repeats, dtype=np.float64) / counts[np.array(kinds, dtype=np.intp)] if repeats else np.zeros(0)


def flops_of(graph: Graph) -> float:
    """FLOP of a step on the whole batch; causal attention computes half of all pairs of positions."""
    causal = "causal_attention" in graph.traits
    return sum(
        item.flops.at(graph.batch_size) * item.repeats * (0.5 if causal and item.kind == "attention" else 1.0)
        for item in graph.operations
    )
