"""A node of the graph as the rules see it: an operation on tensors of known shapes, and one way to split it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from operator import getitem
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from meshwright.parallel.tensor._layout import Layout

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One way in which the workers of an axis do an operation together.

    Args:
        operands: layout that each operand has to have.
        results: layout that each result then has.
        kind: what has to be done otherwise than on one device, by a name that the rule knows; empty: only sizes.
        divided: whether each worker does only its share of the work.
    """

    operands: tuple[Layout, ...]
    results: tuple[Layout, ...]
    kind: str = ""
    divided: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """A node with its tensors.

    Args:
        node: in the graph.
        name: of the operation without its overload (`aten.linear`).
        operands: the nodes of its tensor arguments, in the order of the arguments, lists laid flat.
        shapes: of the operands.
        results: shapes of what it gives.
        arguments: all arguments by the schema's name, defaults filled in.
        places: number of each operand by the name of the argument it is given as (the first, for a list).
        degree: workers of the axis.
    """

    node: Node
    name: str
    operands: tuple[Node, ...]
    shapes: tuple[Shape, ...]
    results: tuple[Shape, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[str, int] = field(default_factory=dict)
    degree: int = 1

    @property
    def module(self) -> str:
        """Path of the user's module that runs it."""
        return self.node.meta.get("module") or ""

    @property
    def overload(self) -> Any:
        """The operation with its overload."""
        return self.node.target

    @property
    def result_bytes(self) -> int:
        """Memory of all results (B)."""
        return sum(prod(value.shape) * value.element_size() for value in tensors_of(self.node.meta.get("val")))

    def argument(self, name: str, default: Any = None) -> Any:
        """An argument by the schema's name."""
        return self.arguments.get(name, default)


def operation_of(node: Node, degree: int) -> Operation:
    """What the rules need to know about a `call_function` node."""
    operands, places, arguments = [], {}, {}
    for name, value in _named_arguments(node):
        arguments[name] = value
        for found in _tensor_nodes(value):
            places.setdefault(name, len(operands))
            operands.append(found)
    values = tuple(tensors_of(node.meta.get("val")))
    return Operation(
        node=node,
        name=operation_name(node.target),
        operands=tuple(operands),
        shapes=tuple(tuple(operand.meta["val"].shape) for operand in operands),
        results=tuple(tuple(value.shape) for value in values),
        arguments=arguments,
        places=places,
        degree=degree,
    )


def operation_name(target: Any) -> str:
    """`aten.linear` for `aten.linear.default`."""
    if isinstance(target, torch._ops.OpOverload):
        return f"{target.namespace}.{target._schema.name.split('::')[1]}"
    return getattr(target, "__name__", str(target))


def tensors_of(value: Any) -> Iterator[Tensor]:
    """The tensors in a node's value."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_of(item)


def is_selection(node: Node) -> bool:
    """Whether a node picks one of several results."""
    source = node.args[0] if node.op == "call_function" and node.target is getitem else None
    return isinstance(source, Node) and not isinstance(source.meta["val"], Tensor)


def _named_arguments(node: Node) -> Iterator[tuple[str, Any]]:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        yield from ((str(number), value) for number, value in enumerate(node.args))
        yield from node.kwargs.items()
        return
    schema = target._schema.arguments
    for number, argument in enumerate(schema):
        if number < len(node.args):
            yield argument.name, node.args[number]
        elif argument.name in node.kwargs:
            yield argument.name, node.kwargs[argument.name]
        elif argument.has_default_value():
            yield argument.name, argument.default_value


def _tensor_nodes(value: Any) -> Iterator[Node]:
    if isinstance(value, Node):
        if isinstance(value.meta.get("val"), Tensor):
            yield value
        elif isinstance(value.meta.get("val"), list | tuple):
            raise ValueError(f"{value} has several results")
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensor_nodes(item)
