"""Regions of a block that tensor parallelism divides, found from matrix shapes and parameters alone.

A region begins with linear layers that read the whole residual stream (split by columns), goes on through whatever is
computed from their outputs, and ends with the linear layer that leads back to the stream (split by rows). The attention
core between its projections tells an output projection from another projection of the same shape.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from meshwright.graph._graph import Graph, Operation, Parameter


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearLayer:
    """A matrix product with a parameter.

    Args:
        index: of its forward operation.
        parameter: the weight.
        inner: width that it reads.
        columns: width that it writes.
        out_dim: dim of the weight that belongs to `columns`; the other one of its last two belongs to `inner`.
        experts: how many of them one parameter holds; 0: it is a single layer.
    """

    index: int
    parameter: Parameter
    inner: int
    columns: int
    out_dim: int
    experts: int = 0

    @property
    def in_dim(self) -> int:
        """Dim of the weight that belongs to `inner`."""
        last = len(self.parameter.shape) - 1
        return last if self.out_dim == last - 1 else last - 1


@dataclass(slots=True)
class Region:
    """What is computed between splitting and summing.

    Args:
        columns: layers split by columns.
        row: the layer split by rows that ends it.
        core: index of the first operation of the attention core; -1 where there is none.
    """

    columns: list[LinearLayer] = field(default_factory=list)
    row: LinearLayer | None = None
    core: int = -1

    @property
    def first(self) -> int:
        """Index of its first operation."""
        return self.columns[0].index


def regions(graph: Graph, indices: Sequence[int]) -> list[Region]:
    """The closed regions among some forward operations, in order of execution.

    Args:
        indices: operations of one instance of a block, ascending.
    """
    found: list[Region] = []
    current: Region | None = None
    layers = {layer.index: layer for layer in linear_layers(graph, indices)}
    for index in indices:
        layer = layers.get(index)
        if layer is None:
            if current is not None and current.core < 0 and is_core(graph.operations[index]):
                current.core = index
            continue
        if current is None:
            current = Region(columns=[layer])
        elif _reads_the_stream(layer, current):
            current.columns.append(layer)
        else:
            current.row = layer
            found.append(current)
            current = None
    return found


def linear_layers(graph: Graph, indices: Sequence[int]) -> Iterator[LinearLayer]:
    """Matrix products with a weight among some forward operations; routers of experts are left out."""
    weights: dict[str, list[Parameter]] = {}
    for parameter in graph.parameters:
        for path in parameter.paths:
            if len(parameter.shape) in (2, 3):
                weights.setdefault(path.rpartition(".")[0], []).append(parameter)
    transposed = {graph.operations[index].module for index in indices if graph.operations[index].name == "aten.t"}
    inside = {graph.operations[index].module for index in indices}
    routed = {
        item.shape[0] for module in inside for item in weights.get(module, []) if len(item.shape) == 3
    }  # fmt: skip
    for index in indices:
        operation = graph.operations[index]
        if operation.kind != "matrix" or operation.matrix is None:
            continue
        inner, columns = round(operation.matrix.inner.fixed), round(operation.matrix.columns.fixed)
        for weight in weights.get(operation.module, []):
            layer = _layer(index, weight, inner, columns, transposed=operation.module in transposed)
            if layer is not None and columns not in routed:
                yield layer
                break


def is_core(operation: Operation) -> bool:
    """Whether an operation mixes the positions of a sequence: attention, or a product of two activations."""
    batched = operation.matrix is not None and operation.matrix.batch.per_example > 0
    return operation.kind == "attention" or (operation.kind == "matrix" and batched)


def _layer(index: int, weight: Parameter, inner: int, columns: int, *, transposed: bool) -> LinearLayer | None:
    height, width = weight.shape[-2:]
    if {height, width} != {inner, columns}:
        return None
    last = len(weight.shape) - 1
    first_is_out = transposed or len(weight.shape) == 3 if height == width else height == columns
    return LinearLayer(
        index=index, parameter=weight, inner=inner, columns=columns, out_dim=last - 1 if first_is_out else last,
        experts=weight.shape[0] if len(weight.shape) == 3 else 0,
    )  # fmt: skip


def _reads_the_stream(layer: LinearLayer, region: Region) -> bool:
    """Whether a layer is one more projection of what the region's first layer read."""
    return layer.inner == region.columns[0].inner and region.core < 0
