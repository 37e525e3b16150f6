"""The graph that one worker of a split model runs: work, parameters and saved activations divided where they are split.

A split sequence (context) needs no graph of its own: it divides whatever grows with the examples, as fewer would.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from meshwright.graph import Activation, Graph, Linear, MatrixShape, Operation, Parameter, SplitParameter, TensorSplit

SequenceMode = Literal["whole", "split"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Division:
    """How the model itself is divided among workers of one stage.

    Args:
        tp: tensor degree.
        sequence: whether what lies between tensor-parallel regions is split along the sequence.
        ep: expert degree.
    """

    tp: int = 1
    sequence: SequenceMode = "whole"
    ep: int = 1


def local_graph(graph: Graph, division: Division) -> Graph:
    """The graph of one worker.

    Args:
        graph: the whole one, with its splits.
    """
    splits = graph.splits
    tensor = splits.tensor if splits is not None and division.tp > 1 else None
    if tensor is None and division.ep == 1:
        return graph
    shares = _shares(graph, tensor, division)
    dims = {item.path: graph_dim(graph, item) for item in tensor.parameters} if tensor is not None else {}
    expert = {item.path for item in splits.expert.parameters} if splits is not None and splits.expert else set()
    return replace(
        graph,
        operations=tuple(
            _divided(item, share, _split_lengths(graph, item, dims)) if share < 1 else item
            for item, share in zip(_of_fewer_experts(graph, expert, division.ep), shares, strict=True)
        ),
        parameters=tuple(_held(item, dims, expert, division) for item in graph.parameters),
        activations=tuple(_saved(item, shares) for item in graph.activations),
        transient=_scaled(
            graph.transient, 1 / division.tp if tensor is not None and _splits_loss(graph, tensor) else 1
        ),
    )


def _of_fewer_experts(graph: Graph, expert: set[str], degree: int) -> Iterator[Operation]:
    """The operations with fewer experts in each product, and for each of them more tokens: those of other workers.

    Args:
        expert: paths of the experts' parameters.
        degree: workers that share the experts.
    """
    modules = {path.rpartition(".")[0] for path in expert} if degree > 1 else set()
    for item in graph.operations:
        shape = item.matrix
        if shape is None or item.module not in modules or shape.batch.fixed <= 1:
            yield item
            continue
        grown = {
            side: _scaled(length, degree) for side in ("rows", "inner", "columns")
            if (length := getattr(shape, side)).per_example
        }  # fmt: skip
        yield replace(item, matrix=replace(shape, batch=_scaled(shape.batch, 1 / degree), **grown))


def graph_dim(graph: Graph, item: SplitParameter) -> tuple[int, int]:
    """The dim that a parameter is split on, and its length."""
    parameter = next(one for one in graph.parameters if item.path in one.paths)
    return item.dim, parameter.shape[item.dim]


def _shares(graph: Graph, tensor: TensorSplit | None, division: Division) -> list[float]:
    """Which part of every operation a worker does."""
    shares = [1.0] * len(graph.operations)
    if tensor is None:
        return shares
    divided = tensor.operations if division.sequence == "whole" else (*tensor.operations, *tensor.sequence_operations)
    for index in divided:
        shares[index] = 1 / division.tp
    return shares


def _divided(item: Operation, share: float, lengths: frozenset[int]) -> Operation:
    return replace(
        item,
        flops=_scaled(item.flops, share),
        bytes_read=_scaled(item.bytes_read, share),
        bytes_written=_scaled(item.bytes_written, share),
        matrix=_divided_shape(item.matrix, share, lengths) if item.matrix is not None else None,
    )


def _divided_shape(shape: MatrixShape, share: float, lengths: frozenset[int]) -> MatrixShape:
    """Heads where there are several; otherwise the side that is as long as the split dim of the weight."""
    if shape.batch.per_example:
        return replace(shape, batch=_scaled(shape.batch, share))
    for side in ("columns", "inner", "rows"):
        if round(getattr(shape, side).fixed) in lengths:
            return replace(shape, **{side: _scaled(getattr(shape, side), share)})
    return replace(shape, rows=_scaled(shape.rows, share))


def _split_lengths(graph: Graph, item: Operation, dims: Mapping[str, tuple[int, int]]) -> frozenset[int]:
    """Lengths of the split dims of an operation's own parameters."""
    del graph
    return frozenset(length for path, (_, length) in dims.items() if path.rpartition(".")[0] == item.module)


def _held(item: Parameter, dims: Mapping[str, tuple[int, int]], expert: set[str], division: Division) -> Parameter:
    shape = list(item.shape)
    for path in item.paths:
        if path in dims:
            dim = dims[path][0]
            shape[dim] = -(-shape[dim] // division.tp)
            break
    if division.ep > 1 and any(path in expert for path in item.paths):
        shape[0] = -(-shape[0] // division.ep)
    return replace(item, shape=tuple(shape)) if tuple(shape) != item.shape else item


def _saved(item: Activation, shares: list[float]) -> Activation:
    known = 0 <= item.created < len(shares)
    share = shares[item.created] if known else 1.0
    return replace(item, size=_scaled(item.size, share)) if share < 1 else item


def _splits_loss(graph: Graph, tensor: TensorSplit) -> bool:
    """Whether the logits, which are most of what comes and goes, are split."""
    return any(graph.operations[index].module == "" for index in tensor.operations)


def _scaled(value: Linear, factor: float) -> Linear:
    return value if factor == 1 else Linear(fixed=value.fixed * factor, per_example=value.per_example * factor)
