"""Every way to lay out a program on an axis: the choices of each operation, and who hands what to whom."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from meshwright.parallel.tensor._layout import (
    COPIED,
    REPLICATED,
    Layout,
    Split,
    order,
    without_gradient,
)
from meshwright.parallel.tensor._operation import Choice, Operation, is_selection, operation_of
from meshwright.parallel.tensor.rules import rule_of

# How many ways to split one tensor are looked at; beyond, further ones found through views and pieces are left out.
MOST_SPLITS = 12


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor in the graph.

    Args:
        producer: the node that computes it, or holds it (`get_attr`, `placeholder`).
        number: which of the producer's results it is.
    """

    producer: Node
    number: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """What the solver decides about.

    Args:
        operations: by node, in the order of execution; the graph's output is one, with nothing but operands.
        choices: of every operation and of every tensor that is held, in a fixed order.
        values: the value of each tensor-valued node.
        with_gradient: values that a gradient comes back to.
        held: parameters and buffers by node.
        degree: workers of the axis.
    """

    operations: Mapping[Node, Operation]
    choices: Mapping[Node, tuple[Choice, ...]]
    values: Mapping[Node, Value]
    with_gradient: frozenset[Value]
    held: Mapping[Node, Tensor]
    degree: int

    def operand_values(self, node: Node) -> list[Value]:
        """The values that an operation reads."""
        return [self.values[operand] for operand in self.operations[node].operands]

    def shape(self, value: Value) -> tuple[int, ...]:
        """Global shape of a value."""
        return tuple(tensor_of(value).shape)


def tensor_of(value: Value) -> Tensor:
    """The fake tensor of a value."""
    found = value.producer.meta["val"]
    return found if isinstance(found, Tensor) else list(_tensors(found))[value.number]


def problem_of(
    graph_module: GraphModule,
    degree: int,
    *,
    pinned: Mapping[str, Layout],
    seeds: Mapping[Node, tuple[Split, ...]],
) -> Problem:
    """The choices of every operation of a graph.

    Args:
        graph_module: of a program.
        degree: workers of the axis.
        pinned: layouts that are given, by the name of a parameter, buffer or placeholder.
        seeds: ways to split values from which all others follow.
    """
    return _Search(graph_module, degree, dict(pinned)).run(seeds)


class _Search:
    """Follows each way to split a tensor through the operations before and after it."""

    def __init__(self, graph_module: GraphModule, degree: int, pinned: dict[str, Layout]) -> None:
        self._degree = degree
        self._pinned = pinned
        self._nodes = list(graph_module.graph.nodes)
        self._held = {
            node: _attribute(graph_module, node.target)
            for node in self._nodes
            if node.op == "get_attr" and isinstance(node.meta.get("val"), Tensor)
        }
        self._values = {node: value for node in self._nodes if (value := _value_of(node)) is not None}
        self._operations = {node: _operation(node, degree) for node in self._nodes if _is_operation(node)}
        self._rules = {node: rule_of(node) for node in self._operations if node.op == "call_function"}
        self._reaches = self._reached()
        self._with_gradient = self._gradients()
        self._written = self._written_values()
        self._choices: dict[Node, dict[Choice, None]] = {}
        self._splits: dict[Value, set[Split]] = {}
        self._consumers: dict[Value, list[tuple[Node, int]]] = {}
        for node, operation in self._operations.items():
            for place, operand in enumerate(operation.operands):
                self._consumers.setdefault(self._values[operand], []).append((node, place))

    def run(self, seeds: Mapping[Node, tuple[Split, ...]]) -> Problem:
        """The problem."""
        for node, operation in self._operations.items():
            self._choices[node] = dict.fromkeys(self._whole(operation))
        pending = [(self._values[node], split) for node, splits in seeds.items() for split in splits]
        while pending:
            value, split = pending.pop(0)
            known = self._splits.setdefault(value, set())
            if split in known or len(known) >= MOST_SPLITS or not split.fits(self._shape(value), self._degree):
                continue
            known.add(split)
            pending.extend(self._following(value, split))
        for node in self._values:
            if node.op in ("get_attr", "placeholder"):
                self._choices[node] = dict.fromkeys(self._of_source(node))
        return Problem(
            operations=self._operations,
            choices={node: tuple(sorted(found, key=_choice_order)) for node, found in self._choices.items()},
            values=self._values,
            with_gradient=frozenset(self._with_gradient),
            held=self._held,
            degree=self._degree,
        )

    def _following(self, value: Value, split: Split) -> Iterator[tuple[Value, Split]]:
        """The splits of neighbouring values that one split of a value leads to."""
        places = list(self._consumers.get(value, ()))
        if value.producer in self._operations:
            places.append((value.producer, len(self._operations[value.producer].operands) + value.number))
        for node, place in places:
            operation, rule = self._operations[node], self._rules.get(node)
            if rule is None or node not in self._reaches or _writes(node):
                continue
            choice = rule.choice(operation, place, split)
            if choice is None or not self._fits(operation, choice):
                continue
            self._choices[node].setdefault(self._canonical(operation, choice))
            results = [Value(node, number) for number in range(len(operation.results))]
            tensors = [*(self._values[operand] for operand in operation.operands), *results]
            for tensor, layout in zip(tensors, (*choice.operands, *choice.results), strict=True):
                if isinstance(layout, Split):
                    yield tensor, layout

    def _whole(self, operation: Operation) -> Iterator[Choice]:
        """An operation done whole on every worker, with whole or partial gradients, and what needs no split."""
        for layout in (REPLICATED, COPIED):
            choice = Choice((layout,) * len(operation.operands), (layout,) * len(operation.results), divided=False)
            if operation.node.op == "output":
                yield choice
                return
            yield self._canonical(operation, choice)
        rule = self._rules[operation.node]
        if rule is not None and operation.node in self._reaches and not _writes(operation.node):
            for choice in rule.others(operation):
                yield self._canonical(operation, choice)

    def _canonical(self, operation: Operation, choice: Choice) -> Choice:
        operands = [
            layout if self._values[operand] in self._with_gradient else without_gradient(layout)
            for operand, layout in zip(operation.operands, choice.operands, strict=True)
        ]
        results = [
            layout if Value(operation.node, number) in self._with_gradient else without_gradient(layout)
            for number, layout in enumerate(choice.results)
        ]
        return Choice(tuple(operands), tuple(results), choice.kind, choice.divided)

    def _of_source(self, node: Node) -> Iterator[Choice]:
        name = node.target if node.op == "get_attr" else node.name
        if name in self._pinned:
            yield Choice((), (self._pinned[name],))
            return
        yield Choice((), (REPLICATED,))
        if node.op == "get_attr" and (isinstance(self._held[node], nn.Parameter) or node in self._written):
            for split in sorted(self._splits.get(self._values[node], ()), key=order):
                yield Choice((), (split,))

    def _fits(self, operation: Operation, choice: Choice) -> bool:
        shapes = (*operation.shapes, *operation.results)
        return all(
            layout.fits(shape, self._degree)
            for shape, layout in zip(shapes, (*choice.operands, *choice.results), strict=True)
            if isinstance(layout, Split)
        )

    def _shape(self, value: Value) -> tuple[int, ...]:
        return tuple(tensor_of(value).shape)

    def _reached(self) -> set[Node]:
        """Operations that something which can be split is computed into."""
        found = set()
        for node in self._nodes:
            held = node in self._held and isinstance(self._held[node], nn.Parameter)
            name = node.target if node.op == "get_attr" else node.name
            if held or isinstance(self._pinned.get(name), Split) or any(n in found for n in node.all_input_nodes):
                found.add(node)
        return found

    def _gradients(self) -> set[Value]:
        found: set[Value] = set()
        for node, value in self._values.items():
            if not tensor_of(value).dtype.is_floating_point:
                continue
            if node in self._held:
                if isinstance(self._held[node], nn.Parameter) and self._held[node].requires_grad:
                    found.add(value)
            elif value.producer in self._operations and operation_stops_gradient(value.producer) is False:
                operands = self._operations[value.producer].operands
                if any(self._values[operand] in found for operand in operands):
                    found.add(value)
        return found

    def _written_values(self) -> set[Node]:
        """Buffers that an operation writes to."""
        return {
            operand
            for node, operation in self._operations.items()
            if node.op == "call_function" and writes_operands(operation)
            for operand in written_operands(operation)
            if operand.op == "get_attr"
        }


def written_operands(operation: Operation) -> list[Node]:
    """The operands that an operation writes to."""
    if operation.name in ("aten.batch_norm", "aten.instance_norm"):
        return [
            operation.operands[operation.places[name]]
            for name in ("running_mean", "running_var")
            if name in operation.places
        ]
    if _writes(operation.node):
        return list(operation.operands[:1])
    return []


def writes_operands(operation: Operation) -> bool:
    """Whether an operation changes one of its operands."""
    return bool(written_operands(operation))


def operation_stops_gradient(node: Node) -> bool:
    """Whether no gradient passes an operation."""
    return getattr(node.target, "__name__", "").split(".")[0] in ("detach", "detach_")


def _writes(node: Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def _is_operation(node: Node) -> bool:
    if node.op == "output":
        return True
    return node.op in ("call_function", "call_module") and not is_selection(node)


def _operation(node: Node, degree: int) -> Operation:
    return operation_of(node, degree)


def _value_of(node: Node) -> Value | None:
    if node.op == "output" or not isinstance(node.meta.get("val"), Tensor):
        return None
    if not (node.op == "call_function" and is_selection(node)):
        return Value(node)
    producer: Any = node.args[0]
    index: Any = node.args[1]
    before = list(producer.meta["val"])[:index]
    return Value(producer, len(list(_tensors(before))))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _attribute(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part)
    return module


def _choice_order(choice: Choice) -> tuple[object, ...]:
    return (
        tuple(order(layout) for layout in choice.results),
        tuple(order(layout) for layout in choice.operands),
        choice.kind,
    )
