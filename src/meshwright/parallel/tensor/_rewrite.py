"""An operation on parts: the same one with local sizes, or one that does it together with the other workers."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch.fx import Graph, Node

from meshwright.parallel.tensor._communicator import Communicator
from meshwright.parallel.tensor._layout import Split, local_shape
from meshwright.parallel.tensor._operation import Choice, Operation
from meshwright.parallel.tensor._random import PartRandom
from meshwright.parallel.tensor._vocabulary import RangeCrossEntropy, RowMeanCrossEntropy, VocabularyEmbedding
from meshwright.parallel.tensor.rules import RING
from meshwright.parallel.tensor.rules._pieces import piece_bounds

aten = torch.ops.aten
Arguments = dict[str, Any]


def rewritten(
    graph: Graph, operation: Operation, choice: Choice, arguments: Arguments, communicator: Communicator
) -> Node:
    """Adds an operation to a graph of local tensors.

    Args:
        graph: what is added to.
        operation: in the graph of whole tensors.
        choice: how it is split.
        arguments: by the schema's name, tensors already as the choice wants them.
        communicator: of the axis.
    """
    rewrite = _BY_KIND[choice.kind] if choice.kind else _unchanged
    target, args, kwargs = rewrite(operation, choice, arguments, communicator)
    if operation.node.meta.get("random") and any(isinstance(layout, Split) for layout in choice.results):
        target = PartRandom(target, communicator.coordinate)
    node = graph.call_function(target, args, kwargs)
    return graph.call_function(aten.div.Scalar, (node, communicator.size)) if choice.kind == "mean" else node


Call = tuple[Callable[..., Any], tuple[Any, ...], Arguments]


def _unchanged(operation: Operation, choice: Choice, arguments: Arguments, communicator: Communicator) -> Call:
    """The operation with arguments as the user's program gives them: by position or by name."""
    del choice, communicator
    node = operation.node
    names, target = list(arguments), node.target
    assert callable(target)
    args = tuple(arguments[name] for name in names[: len(node.args)])
    return target, args, {name: arguments[name] for name in node.kwargs}


def _local_shape(operation: Operation, choice: Choice, arguments: Arguments, communicator: Communicator) -> Call:
    """A view or an expansion to the local shape."""
    tensor = next(iter(arguments.values()))
    shape = list(local_shape(operation.results[0], choice.results[0], communicator.size))
    if operation.name in ("aten.expand", "aten.expand_as", "aten.broadcast_to"):
        return aten.expand.default, (tensor, shape), {}
    target = aten.view.default if operation.name == "aten.view" else aten.reshape.default
    return target, (tensor, shape), {}


def _local_pieces(operation: Operation, choice: Choice, arguments: Arguments, communicator: Communicator) -> Call:
    """A part cut into pieces, each a part of what the piece was."""
    dim = operation.argument("dim", 0) or 0
    dim %= len(operation.shapes[0])
    layout = choice.operands[0]
    if not (isinstance(layout, Split) and layout.dim == dim):
        return _unchanged(operation, choice, arguments, communicator)
    tensor = next(iter(arguments.values()))
    bounds = piece_bounds(operation, dim)
    assert bounds is not None, operation.name
    if operation.name in ("aten.slice", "aten.narrow"):
        start, stop = (edge // communicator.size for edge in bounds[0])
        return aten.slice.Tensor, (tensor, dim, start, stop), {}
    lengths = [(stop - start) // communicator.size for start, stop in bounds]
    assert all(before[1] == after[0] for before, after in pairwise(bounds))
    return aten.split_with_sizes.default, (tensor, lengths, dim), {}


def _divided(name: str) -> Callable[..., Call]:
    """The operation with a number of groups divided among the workers."""

    def rewrite(operation: Operation, choice: Choice, arguments: Arguments, communicator: Communicator) -> Call:
        changed = {**arguments, name: operation.argument(name) // communicator.size}
        target, args, kwargs = _unchanged(operation, choice, changed, communicator)
        names = list(changed)
        given = {*names[: len(args)], *kwargs}
        return target, args, kwargs if name in given else {**kwargs, name: changed[name]}

    return rewrite


def _vocabulary(operation: Operation, choice: Choice, arguments: Arguments, communicator: Communicator) -> Call:
    del operation, choice
    padding = arguments.get("padding_idx", -1)
    return VocabularyEmbedding(communicator), (arguments["weight"], arguments["indices"], padding), {}


def _class_range(operation: Operation, choice: Choice, arguments: Arguments, communicator: Communicator) -> Call:
    del operation, choice
    return RangeCrossEntropy(communicator), tuple(arguments.values()), {}


def _row_mean(operation: Operation, choice: Choice, arguments: Arguments, communicator: Communicator) -> Call:
    del choice
    return RowMeanCrossEntropy(operation.node.target, communicator), tuple(arguments.values()), {}  # pyrefly: ignore


def _ring(operation: Operation, choice: Choice, arguments: Arguments, communicator: Communicator) -> Call:
    split = choice.results[0]
    assert isinstance(split, Split)
    given = {
        name: arguments[name]
        for name in ("query", "key", "value", "attn_mask", "is_causal", "scale")
        if arguments.get(name) is not None
    }
    positional = [given.pop(name) for name in ("query", "key", "value")]
    return operation.node.meta[RING](communicator, split), tuple(positional), given


_BY_KIND: dict[str, Callable[..., Call]] = {
    "mean": _unchanged,
    "shape": _local_shape,
    "pieces": _local_pieces,
    "groups": _divided("groups"),
    "num_groups": _divided("num_groups"),
    "output_size": _divided("output_size"),
    "vocabulary": _vocabulary,
    "class_range": _class_range,
    "row_mean": _row_mean,
    "ring": _ring,
}
