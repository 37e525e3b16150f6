"""A program on local tensors, with the exchanges that a scheme takes."""

import re
from collections.abc import Iterator
from dataclasses import replace
from operator import getitem
from typing import Any

from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from meshwright.parallel.program import Program
from meshwright.parallel.tensor._communicator import Communicator
from meshwright.parallel.tensor._conversions import Conversion, CopyTogether
from meshwright.parallel.tensor._layout import COPIED, REPLICATED, Layout, local_shape
from meshwright.parallel.tensor._operation import Choice, Operation, operation_of, tensors_of
from meshwright.parallel.tensor._rewrite import rewritten
from meshwright.parallel.tensor._scheme import Scheme

_BLOCK = re.compile(r"^(.*?\.\d+)(?=\.|$)")


def localize(program: Program, scheme: Scheme, *, communicator: Communicator) -> Program:
    """The program that one worker of an axis runs on its parts of the parameters.

    Parameters are read from where they are: `split_parameters` makes them local. Gradients come out of autograd as
    they belong to what the worker holds: of its part, or whole and the same on all workers.

    Args:
        program: on whole tensors, or already local to another axis.
        scheme: from `choose_placements`, of this program.
        communicator: of the axis.
    """
    graph = _Localizer(program.graph_module, scheme, communicator).graph()
    graph_module = GraphModule(program.graph_module, graph)
    return replace(program, graph_module=graph_module)


class _Localizer:
    """Copies a graph node by node."""

    def __init__(self, source: GraphModule, scheme: Scheme, communicator: Communicator) -> None:
        self._source = source
        self._scheme = scheme
        self._communicator = communicator
        self._graph = Graph()
        self._local: dict[Node, Node] = {}
        self._layouts: dict[Node, Layout] = {}
        self._converted: dict[tuple[Node, Layout], Node] = {}

    def graph(self) -> Graph:
        """The graph of local tensors."""
        nodes = list(self._source.graph.nodes)
        held = [node for node in nodes if node.op in ("get_attr", "placeholder")]
        for node in held:
            self._add_held(node)
        self._copy_together(nodes)
        for node in nodes:
            if node.op not in ("get_attr", "placeholder"):
                self._add(node)
        self._graph.lint()
        return self._graph

    def _add_held(self, node: Node) -> None:
        copied = self._graph.node_copy(node)
        self._local[node] = copied
        if isinstance(node.meta.get("val"), Tensor):
            self._set_layout(node, copied, self._scheme.layout(node.name))

    def _add(self, node: Node) -> None:
        choice = self._scheme.choices.get(node.name)
        if choice is None:
            copied = self._graph.node_copy(node, lambda other: self._local[other])
            self._local[node] = copied
            if node.op == "call_function" and isinstance(node.meta.get("val"), Tensor):
                self._set_selected(node, copied)
            return
        operation = operation_of(node, self._scheme.degree)
        arguments = self._arguments(operation, choice)
        if node.op == "call_function":
            copied = rewritten(self._graph, operation, choice, arguments, self._communicator)
            copied.meta.update(node.meta)
        else:
            copied = self._graph.node_copy(node, lambda other: self._convert(other, REPLICATED))
        self._local[node] = copied
        if isinstance(node.meta.get("val"), Tensor):
            self._set_layout(node, copied, choice.results[0])
        elif node.op == "call_function":
            copied.meta["val"] = _local_values(node.meta.get("val"), iter(choice.results), self._scheme.degree)

    def _set_selected(self, node: Node, copied: Node) -> None:
        producer: Any = node.args[0]
        index: Any = node.args[1]
        number = len(list(tensors_of(list(producer.meta["val"])[:index])))
        self._set_layout(node, copied, self._scheme.choices[producer.name].results[number])

    def _set_layout(self, node: Node, copied: Node, layout: Layout) -> None:
        self._layouts[node] = layout
        copied.meta["val"] = _local_value(node.meta["val"], layout, self._scheme.degree)

    def _arguments(self, operation: Operation, choice: Choice) -> dict[str, Any]:
        operands = iter(
            [self._convert(node, layout) for node, layout in zip(operation.operands, choice.operands, strict=True)]
        )
        return {name: self._replaced(value, operands) for name, value in operation.arguments.items()}

    def _replaced(self, value: Any, operands: Iterator[Node]) -> Any:
        if isinstance(value, Node):
            return next(operands) if isinstance(value.meta.get("val"), Tensor) else self._local[value]
        if isinstance(value, list | tuple):
            return type(value)(self._replaced(item, operands) for item in value)
        return value

    def _convert(self, node: Node, layout: Layout) -> Node:
        """The local node of a value in a layout."""
        before = self._layouts.get(node)
        if before is None or before == layout:
            return self._local[node]
        if (node, layout) not in self._converted:
            conversion = Conversion(before, layout, self._communicator)
            converted = self._graph.call_function(conversion, (self._local[node],))
            converted.meta.update({key: node.meta[key] for key in ("module", "call") if key in node.meta})
            converted.meta["val"] = _local_value(node.meta["val"], layout, self._scheme.degree)
            self._converted[node, layout] = converted
        return self._converted[node, layout]

    def _copy_together(self, nodes: list[Node]) -> None:
        """One sum for the gradients of all replicated parameters of a block that are used on parts."""
        groups: dict[str, dict[Node, None]] = {}
        for node in nodes:
            choice = self._scheme.choices.get(node.name)
            if choice is None or node.op != "call_function":
                continue
            for operand, layout in zip(operation_of(node, self._scheme.degree).operands, choice.operands, strict=True):
                parameter = operand.op == "get_attr" and isinstance(self._held(operand), nn.Parameter)
                if parameter and layout is COPIED and self._layouts[operand] is REPLICATED:
                    groups.setdefault(_block(operand.target), {})[operand] = None
        for operands in groups.values():
            local = [self._local[operand] for operand in operands]
            together = self._graph.call_function(CopyTogether(self._communicator), tuple(local))
            together.meta["val"] = tuple(node.meta["val"] for node in local)
            for number, operand in enumerate(operands):
                picked = self._graph.call_function(getitem, (together, number))
                picked.meta["val"] = operand.meta["val"]
                self._converted[operand, COPIED] = picked

    def _held(self, node: Node) -> Any:
        found: Any = self._source
        for part in str(node.target).split("."):
            found = getattr(found, part)
        return found


def _block(path: Any) -> str:
    """The outermost numbered part of a parameter's path, or its module."""
    found = _BLOCK.match(path)
    return found.group(1) if found else str(path).rpartition(".")[0]


def _local_value(value: Tensor, layout: Layout, degree: int) -> Tensor:
    shape = local_shape(tuple(value.shape), layout, degree)
    return value if shape == tuple(value.shape) else value.new_empty(shape)


def _local_values(value: Any, layouts: Iterator[Layout], degree: int) -> Any:
    if isinstance(value, Tensor):
        return _local_value(value, next(layouts), degree)
    if isinstance(value, list | tuple):
        return type(value)(_local_values(item, layouts, degree) for item in value)
    return value
