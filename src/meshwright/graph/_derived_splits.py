"""How a model could be split, derived from its operations: for hardware that is not here, where nothing is run.

Everything that runs inside a tensor-parallel region is divided by the degree; norms, dropout and residuals of the
blocks by it only with the sequence split. The output layer and the loss are divided over an even vocabulary.
"""

from math import gcd

from meshwright.graph._cuts import cuts
from meshwright.graph._graph import Graph, MatrixShape, Operation
from meshwright.graph._linear import Linear
from meshwright.graph._regions import LinearLayer, Region, linear_layers, regions
from meshwright.graph._splits import ContextSplit, ExpertSplit, SplitExchange, SplitParameter, Splits, TensorSplit

# Positions that a worker of a split sequence keeps at least; below, attention is all exchange.
_FEWEST_POSITIONS = 64
_STATISTICS = 3  # maximum, sum and the target's logit of every position, exchanged by a loss on shards


def derived_splits(graph: Graph) -> Splits:
    """Every way to split a graph that its operations and parameters show."""
    insides = {block.paths[0]: _inside(graph, block.paths[0]) for block in graph.blocks}
    found = {path: regions(graph, indices) for path, indices in insides.items()}
    return Splits(
        tensor=_tensor(graph, insides, found),
        context=_context(graph, [region for each in found.values() for region in each]),
        expert=_expert(graph, insides),
        cuts=cuts(graph),
    )


def _inside(graph: Graph, path: str) -> list[int]:
    return [
        index
        for index, item in enumerate(graph.operations)
        if item.phase == "forward" and (item.module == path or item.module.startswith(f"{path}."))
    ]


def _tensor(graph: Graph, insides: dict[str, list[int]], found: dict[str, list[Region]]) -> TensorSplit | None:
    every = [region for each in found.values() for region in each]
    if not every:
        return None
    head = _head(graph)
    split = {index for region in every for index in _region_operations(graph, region)}
    if head is not None:
        split |= {index for index, item in enumerate(graph.operations) if item.module in (_module(graph, head), "")}
    embedding = _embedding(graph) if head is not None else None
    inside = set().union(*(_whole_block(graph, path) for path in insides))
    whole, halved = [], []
    for region in every:
        whole += _region_exchanges(graph, region, names=("all_reduce",))
        halved += _region_exchanges(graph, region, names=("all_gather", "reduce_scatter"))
    if head is not None:
        whole += _head_exchanges(graph, head, embedding, names=("all_reduce",))
        halved += _head_exchanges(graph, head, embedding, names=("all_gather", "reduce_scatter"))
    return TensorSplit(
        degrees=_divisors(gcd(*(width for region in every for width in _widths(graph, region)),
                              *((head.columns,) if head is not None else ()))),
        parameters=_parameters(graph, every, head, embedding),
        operations=tuple(sorted(split)),
        sequence_operations=tuple(sorted(inside - split)),
        whole=tuple(whole),
        split=tuple(halved),
    )  # fmt: skip


def _region_operations(graph: Graph, region: Region) -> set[int]:
    """Forward operations from the first to the last layer, and the backward ones of the modules that they fill."""
    assert region.row is not None
    forward = set(range(region.first, region.row.index + 1))
    modules = {graph.operations[index].module for index in forward}
    outside = {
        item.module
        for index, item in enumerate(graph.operations)
        if item.phase == "forward" and index not in forward and item.kind != "view" and item.module in modules
    }
    computing = ("matrix", "attention", "pointwise", "transcendental")
    return forward | {
        index
        for index, item in enumerate(graph.operations)
        if item.phase == "backward"
        and item.module in modules
        and (item.module not in outside or item.kind in computing)
    }


def _whole_block(graph: Graph, path: str) -> set[int]:
    return {
        index
        for index, item in enumerate(graph.operations)
        if item.module == path or item.module.startswith(f"{path}.")
    }


def _widths(graph: Graph, region: Region) -> list[int]:
    """What a degree has to divide: heads where there is an attention core, otherwise the inner width."""
    if region.core < 0:
        return [layer.columns for layer in region.columns]
    shape = graph.operations[region.core].matrix
    if shape is None:
        return [layer.columns for layer in region.columns]
    width = round(min(shape.inner.fixed, shape.columns.fixed or shape.inner.fixed))
    heads = round(shape.batch.per_example)
    fused = len(region.columns) == 1
    return [heads] if fused else [heads, *(max(1, layer.columns // max(1, width)) for layer in region.columns)]


def _head(graph: Graph) -> LinearLayer | None:
    """The output layer: the last linear layer outside all blocks, if it widens to an even vocabulary."""
    paths = tuple(path for block in graph.blocks for path in block.paths)
    outside = [
        index
        for index, item in enumerate(graph.operations)
        if item.phase == "forward"
        and not any(item.module == path or item.module.startswith(f"{path}.") for path in paths)
    ]
    layers = list(linear_layers(graph, outside))
    wide = bool(layers) and layers[-1].columns > layers[-1].inner and layers[-1].columns % 2 == 0
    return layers[-1] if wide else None


def _embedding(graph: Graph) -> Operation | None:
    """The lookup in the largest table."""
    lookups = [item for item in graph.operations if item.name == "aten.embedding"]
    return max(lookups, key=lambda item: _table(graph, item), default=None)


def _table(graph: Graph, lookup: Operation) -> int:
    return max((item.shape[0] for item in graph.parameters if f"{lookup.module}.weight" in item.paths), default=0)


def _parameters(
    graph: Graph, every: list[Region], head: LinearLayer | None, embedding: Operation | None
) -> tuple[SplitParameter, ...]:
    found: dict[str, SplitParameter] = {}
    for region in every:
        for layer in region.columns:
            groups = 3 if region.core >= 0 and len(region.columns) == 1 and layer.columns % 3 == 0 else 1
            groups = 2 if layer.experts and region.row is not None and layer.columns == 2 * region.row.inner else groups
            _add(graph, found, layer, dim=layer.out_dim, groups=groups, biased=True)
        assert region.row is not None
        _add(graph, found, region.row, dim=region.row.in_dim, groups=1, biased=False)
    if head is not None:
        _add(graph, found, head, dim=head.out_dim, groups=1, biased=True)
    if embedding is not None:
        table = next(item for item in graph.parameters if f"{embedding.module}.weight" in item.paths)
        found.setdefault(table.paths[0], SplitParameter(path=table.paths[0], dim=0))
    return tuple(found.values())


def _add(
    graph: Graph, found: dict[str, SplitParameter], layer: LinearLayer, *, dim: int, groups: int, biased: bool
) -> None:
    path = layer.parameter.paths[0]
    found[path] = SplitParameter(path=path, dim=dim, groups=groups)
    bias = f"{path.rpartition('.')[0]}.bias"
    if biased and any(bias in item.paths for item in graph.parameters):
        found[bias] = SplitParameter(path=bias, dim=0, groups=groups)


def _region_exchanges(graph: Graph, region: Region, *, names: tuple[str, ...]) -> list[SplitExchange]:
    """The region's input is gathered (or its gradient summed), its output summed (or scattered); mirrored backwards."""
    assert region.row is not None
    last = graph.operations[region.row.index]
    rows = last.matrix.rows if last.matrix is not None else Linear()
    tokens = rows.per_example / max(1, _choices(graph, region.row))
    size = Linear(per_example=tokens * region.row.columns * _item_size(last))
    return [
        SplitExchange(name=name, phase=phase, module=last.module, size=size, repeats=last.repeats)  # type: ignore[arg-type]
        for phase in ("forward", "backward")
        for name in names
    ]


def _head_exchanges(
    graph: Graph, head: LinearLayer, embedding: Operation | None, *, names: tuple[str, ...]
) -> list[SplitExchange]:
    last = graph.operations[head.index]
    tokens = last.matrix.rows.per_example if last.matrix is not None else 0.0
    size = Linear(per_example=tokens * head.inner * _item_size(last))
    statistics = Linear(per_example=tokens * 4 * _STATISTICS)
    found = [
        SplitExchange(name="all_reduce", phase="forward", module=last.module, size=statistics),
        SplitExchange(name=names[-1], phase="backward", module=last.module, size=size),  # type: ignore[arg-type]
    ]
    if len(names) > 1:
        found.append(SplitExchange(name="all_gather", phase="forward", module=last.module, size=size))
    if embedding is not None:
        entry = Linear(per_example=embedding.bytes_written.per_example)
        found.append(SplitExchange(name=names[-1], phase="forward", module=embedding.module, size=entry))  # type: ignore[arg-type]
        if len(names) > 1:
            found.append(SplitExchange(name="all_gather", phase="backward", module=embedding.module, size=entry))
    return found


def _context(graph: Graph, every: list[Region]) -> ContextSplit | None:
    cores = [region for region in every if region.core >= 0]
    if not cores or {"convolution", "recurrent", "batch_norm"} & set(graph.traits):
        return None
    positions = min(round(_positions(graph, region)) for region in cores)
    degrees = tuple(
        degree for degree in _divisors(positions // 2) if positions >= degree * _FEWEST_POSITIONS
    )  # fmt: skip
    if not degrees:
        return None
    ring, handed = [], []
    for region in cores:
        operation = graph.operations[region.columns[0].index]
        assert operation.matrix is not None
        bytes_per_width = operation.matrix.rows.per_example * _item_size(operation)
        width = region.columns[0].columns
        kept = 2 * sum(layer.columns for layer in region.columns[1:]) / 2 if len(region.columns) > 1 else 2 * width / 3
        own = width if len(region.columns) > 1 else width / 3
        for phase, times in (("forward", 1), ("backward", 2)):
            through = _exchange("all_to_all", phase, operation, bytes_per_width * (2 * own + kept))
            ring.append(_exchange("send", phase, operation, bytes_per_width * kept * times))
            handed.append(through)
            if "causal_attention" in graph.traits:  # balanced halves change hands before and after, in both phases
                ring.append(through)
    heads = gcd(*(width for region in cores for width in _widths(graph, region)))
    return ContextSplit(
        degrees=degrees,
        operations=tuple(index for index, item in enumerate(graph.operations) if item.bytes_written.per_example),
        ring=tuple(ring),
        all_to_all=tuple(handed),
        all_to_all_degrees=tuple(degree for degree in degrees if heads % degree == 0),
    )


def _expert(graph: Graph, insides: dict[str, list[int]]) -> ExpertSplit | None:
    layers = [layer for indices in insides.values() for layer in linear_layers(graph, indices) if layer.experts]
    if not layers:
        return None
    exchanges = []
    for indices in insides.values():
        experts = [layer for layer in linear_layers(graph, indices) if layer.experts]
        if not experts:
            continue
        first = graph.operations[experts[0].index]
        rows = _rows(first.matrix) if first.matrix is not None else 0.0
        size = 2 * rows * experts[0].inner * _item_size(first)
        exchanges += [_exchange("all_to_all", phase, first, size) for phase in ("forward", "backward")]
    return ExpertSplit(
        degrees=_divisors(gcd(*(layer.experts for layer in layers))),
        parameters=tuple(SplitParameter(path=layer.parameter.paths[0], dim=0) for layer in layers),
        exchanges=tuple(exchanges),
    )


def _exchange(name: str, phase: str, operation: Operation, size: float) -> SplitExchange:
    return SplitExchange(
        name=name, phase=phase, module=operation.module, size=Linear(per_example=size), repeats=operation.repeats  # type: ignore[arg-type]
    )  # fmt: skip


def _positions(graph: Graph, region: Region) -> float:
    """Length of the sequence that a core mixes."""
    shape = graph.operations[region.core].matrix
    if shape is None:
        return 0.0
    return max(shape.rows.fixed, shape.columns.fixed)


def _choices(graph: Graph, layer: LinearLayer) -> float:
    """Experts that a token goes through; 1 outside of mixtures."""
    if not layer.experts:
        return 1.0
    rows = [_rows(item.matrix) for item in graph.operations
            if item.kind == "matrix" and item.phase == "forward" and item.matrix is not None
            and item.matrix.rows.per_example]  # fmt: skip
    own = graph.operations[layer.index].matrix
    return _rows(own) / min(rows) if own is not None and rows else 1.0


def _rows(shape: MatrixShape) -> float:
    """Of an example, in all products of a batch."""
    return shape.batch.at(1.0) * shape.rows.per_example


def _module(graph: Graph, layer: LinearLayer) -> str:
    return graph.operations[layer.index].module


def _item_size(operation: Operation) -> float:
    return {"float64": 8.0, "float32": 4.0, "float16": 2.0, "bfloat16": 2.0}.get(operation.dtype, 4.0)


def _divisors(number: int) -> tuple[int, ...]:
    return tuple(degree for degree in range(2, number + 1) if number % degree == 0) if number < 2**20 else ()
