"""Writes in place become new values, so that a graph can be split and cut wherever its values say.

A write to a view (`x[:, 0] = 1`) becomes a new value of the tensor that the view is of (`select_scatter`); whatever is
read later is read from the new value. torch's own functionalization of an exported program also takes composite
operations apart and loses what was detached, hence this one. Writes to parameters, buffers and constants stay.
"""

from collections.abc import Mapping
from itertools import accumulate
from operator import getitem
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

_aten = torch.ops.aten
_OTHER_NAMES = {
    _aten.bernoulli_.float: _aten.bernoulli.p,
    _aten.normal_.default: _aten.normal_functional.default,
    _aten.zero_.default: _aten.zeros_like.default,
}
_SHAPED = (
    _aten.view.default, _aten.reshape.default, _aten._unsafe_view.default, _aten.unsqueeze.default,
    _aten.flatten.using_ints, _aten.squeeze.default, _aten.squeeze.dim, _aten.squeeze.dims, _aten.unflatten.int,
    _aten.contiguous.default,
    _aten.view_as.default, _aten.alias.default,
)  # fmt: skip
_PIECES = (_aten.split.Tensor, _aten.split_with_sizes.default, _aten.chunk.default, _aten.split.sizes)


class NotFunctionalError(Exception):
    """A write that has no form without one."""


def functional(graph_module: GraphModule) -> GraphModule:
    """The same program without writes to values; as it was where a write has no other form."""
    writer = _Writer()
    try:
        if not any(_written(node) is not None for node in graph_module.graph.nodes):
            return graph_module
        for node in graph_module.graph.nodes:
            writer.write(node)
    except NotFunctionalError:
        return graph_module
    attributes = {
        str(node.target): _attribute(graph_module, str(node.target))
        for node in graph_module.graph.nodes
        if node.op == "get_attr"
    }
    return GraphModule(attributes, writer.graph)


class _Writer:
    """Writes a graph anew, and knows which old value is a view of which."""

    def __init__(self) -> None:
        self.graph = Graph()
        self._viewed: dict[Node, Node] = {}
        self._same: dict[Node, Node] = {}
        self._now: dict[Node, Node] = {}
        self._as_of: dict[Node, int] = {}
        self._versions: dict[Node, int] = {}

    def write(self, node: Node) -> None:
        """Writes one node of the old graph."""
        target = _written(node)
        if target is not None and self._base(target).op != "get_attr":
            self._same[node] = target
            self._replace(target, self._new_value(node, target))
            return
        if target is not None:
            self._same[node] = target
        elif (viewed := _viewed(node)) is not None:
            self._viewed[node] = viewed
        new = self.graph.node_copy(node, self._value)
        if target is None:
            self._keep(node, new)

    def _keep(self, node: Node, new: Node) -> None:
        self._now[node] = new
        self._as_of[node] = self._versions.setdefault(self._base(node), 0)

    def _value(self, node: Node) -> Node:
        """What an old node's value is now."""
        while node in self._same:
            node = self._same[node]
        if self._as_of[node] != self._versions[self._base(node)] and node in self._viewed:
            self._keep(node, self.graph.node_copy(node, self._value))
        return self._now[node]

    def _base(self, node: Node) -> Node:
        """The tensor that an old node is a view of, over any number of views."""
        while node in self._same or node in self._viewed:
            node = self._same[node] if node in self._same else self._viewed[node]
        return node

    def _new_value(self, node: Node, target: Node) -> Node:
        """The result of an operation that writes, as a value of its own."""
        old = target.meta["val"]
        if node.target is _aten.copy_.default:
            return self._copied(node, old)
        operation = _without_write(node)
        arguments, keywords = map_arg((_with_defaults(node), node.kwargs), self._value)
        if node.target is _aten.zero_.default:
            arguments, keywords = arguments[:1], {}
        new = self._call(operation, arguments, keywords, node)
        return self._call(_aten.to.dtype, (new, old.dtype), {}, node) if new.meta["val"].dtype != old.dtype else new

    def _copied(self, node: Node, old: Tensor) -> Node:
        source: Any = node.args[1]
        new = self._value(source)
        value = source.meta["val"]
        if value.dtype != old.dtype or value.device != old.device:
            new = self._call(_aten.to.device, (new, old.device, old.dtype), {}, node)
        if value.shape != old.shape:
            new = self._call(_aten.expand.default, (new, list(old.shape)), {}, node)
        elif self._base(source).op == "get_attr":
            new = self._call(_aten.clone.default, (new,), {}, node)
        return new

    def _replace(self, node: Node, new: Node) -> None:
        """Makes a new value that of an old node, and of everything that it is a view of."""
        while node in self._same:
            node = self._same[node]
        if node not in self._viewed:
            self._versions[node] += 1
            self._keep(node, new)
            return
        owner = self._viewed[node]
        if node.target is getitem and owner in self._viewed:
            self._replace(self._viewed[owner], self._with_piece(node, owner, new))
        else:
            self._replace(owner, self._with_view(node, owner, new))
        self._keep(node, new)

    def _with_view(self, node: Node, owner: Node, new: Node) -> Node:
        """The owner's value in which a view of it has been replaced."""
        whole, rest = self._value(owner), list(node.args[1:])
        shape = list(owner.meta["val"].shape)
        if node.target is _aten.select.int:
            return self._call(_aten.select_scatter.default, (whole, new, *rest), {}, owner)
        if node.target is _aten.slice.Tensor:
            return self._call(_aten.slice_scatter.default, (whole, new, *rest), {}, owner)
        if node.target in _SHAPED:
            return self._call(_aten.reshape.default, (new, shape), {}, owner)
        if node.target in (_aten.transpose.int, _aten.t.default):
            return self._call(node.target, (new, *rest), {}, owner)
        if node.target is _aten.permute.default:
            dims: Any = rest[0]
            inverse = [dims.index(dim) for dim in range(len(dims))]
            return self._call(_aten.permute.default, (new, inverse), {}, owner)
        raise NotFunctionalError(f"a write through {node.target}")

    def _with_piece(self, node: Node, pieces: Node, new: Node) -> Node:
        """The same where the view is one of several pieces."""
        owner, number = self._viewed[pieces], int(node.args[1])  # type: ignore[arg-type]
        dim = _argument(pieces, "dim", 0)
        if pieces.target is _aten.unbind.int:
            return self._call(_aten.select_scatter.default, (self._value(owner), new, dim, number), {}, owner)
        if pieces.target not in _PIECES:
            raise NotFunctionalError(f"a write through {pieces.target}")
        ends = list(accumulate(piece.shape[dim] for piece in pieces.meta["val"]))
        start = ends[number - 1] if number else 0
        arguments = (self._value(owner), new, dim, start, ends[number])
        return self._call(_aten.slice_scatter.default, arguments, {}, owner)

    def _call(self, operation: Any, arguments: Any, keywords: Mapping[str, Any], like: Node) -> Node:
        new = self.graph.call_function(operation, tuple(arguments), dict(keywords))
        fake, named = map_arg((new.args, new.kwargs), lambda argument: argument.meta["val"])
        new.meta.update(like.meta)
        with torch.no_grad():
            new.meta["val"] = operation(*fake, **named)
        return new


def _written(node: Node) -> Node | None:
    """What an operation writes to; None: nothing."""
    operation: Any = node.target
    schema = getattr(operation, "_schema", None)
    if schema is None or not schema.is_mutable:
        return None
    written = [
        node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
        for position, argument in enumerate(schema.arguments)
        if argument.is_write
    ]
    if len(written) != 1 or not isinstance(written[0], Node) or torch.Tag.inplace_view in operation.tags:
        raise NotFunctionalError(f"{node.target} writes to {len(written)} tensors, or to a shape")
    return written[0]


def _viewed(node: Node) -> Node | None:
    """What a node is a view of; None: a value of its own."""
    if node.target is getitem and isinstance(node.args[0], Node):
        return node.args[0] if _viewed(node.args[0]) is not None else None
    schema = getattr(node.target, "_schema", None)
    if schema is None or not any(result.alias_info is not None for result in schema.returns):
        return None
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and position < len(node.args):
            viewed = node.args[position]
            return viewed if isinstance(viewed, Node) else None
    return None


def _without_write(node: Node) -> Any:
    """The operation that gives as a new value what another writes."""
    target: Any = node.target
    if target in _OTHER_NAMES:
        return _OTHER_NAMES[target]
    namespace, _, name = target._schema.name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    operation = getattr(packet, target._overloadname, None)
    if operation is None or not name.endswith("_") or operation._schema.is_mutable:
        raise NotFunctionalError(f"{target} has no form without a write")
    return operation


def _with_defaults(node: Node) -> tuple[Any, ...]:
    """Positional arguments with the defaults of those left out: another form's defaults may differ."""
    schema = node.target._schema  # type: ignore[union-attr]
    left_out = [argument for argument in schema.arguments[len(node.args) :] if not argument.kwarg_only]
    return (*node.args, *(argument.default_value for argument in left_out if argument.name not in node.kwargs))


def _argument(node: Node, name: str, default: int) -> int:
    schema = node.target._schema  # type: ignore[union-attr]
    position = [argument.name for argument in schema.arguments].index(name)
    value: Any = node.args[position] if position < len(node.args) else node.kwargs.get(name, default)
    return value


def _attribute(module: Any, name: str) -> Any:
    for part in name.split("."):
        module = getattr(module, part)
    return module
