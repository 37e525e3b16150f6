"""Regions without gradients and regions under autocast, written out as plain operations.

Inside of a region without gradients nothing depends on a tensor that needs one, so detaching what enters it is the
same; under autocast an operation whose result has another type than its inputs give has those inputs cast.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import getitem
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.wrap import wrap_with_autocast, wrap_with_set_grad_enabled
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from meshwright.errors import ProgramError

_aten = torch.ops.aten


@dataclass(frozen=True, kw_only=True, slots=True)
class _Region:
    """Where an operation stands.

    Args:
        gradients: whether they flow.
        autocast: data type that autocast casts to; None: off.
    """

    gradients: bool = True
    autocast: torch.dtype | None = None


def without_regions(graph_module: GraphModule, *, autocast: torch.dtype | None) -> GraphModule:
    """The same graph with every region's operations in its place.

    Args:
        graph_module: with regions as submodules.
        autocast: data type that autocast was casting to around the capture; None: off.

    Raises:
        ProgramError: gradients are switched on again inside of a region without.
    """
    writer = _Writer(graph_module)
    outputs = writer.write(graph_module, {}, _Region(autocast=autocast))
    writer.graph.output(outputs)
    return GraphModule(writer.attributes, writer.graph)


class _Writer:
    """Writes graphs and the regions in them one after another into one graph."""

    def __init__(self, graph_module: GraphModule) -> None:
        self.graph = Graph()
        self.attributes: dict[str, Any] = {}
        self._root = graph_module

    def write(self, module: GraphModule, values: dict[Node, Any], region: _Region) -> Any:
        """Writes a graph's nodes.

        Args:
            module: its owner.
            values: what its placeholders stand for; empty: they are the program's own.
            region: what surrounds it.

        Returns:
            Its output in terms of the new nodes.
        """
        for node in module.graph.nodes:
            if node in values:
                continue
            if node.op == "output":
                return _mapped(node.args[0], values)
            values[node] = self._written(node, module, values, region)
        raise AssertionError("a graph without output")

    def _written(self, node: Node, module: GraphModule, values: dict[Node, Any], region: _Region) -> Any:
        if node.op == "get_attr" and isinstance(_attribute(module, node), GraphModule):
            return _attribute(module, node)
        if node.op == "get_attr":
            self.attributes[str(node.target)] = _attribute(module, node)
        if node.target is wrap_with_set_grad_enabled:
            enabled, inner, *arguments = _mapped(node.args, values)
            return self._without_gradients(inner, arguments, region, enabled=enabled)
        if node.target is wrap_with_autocast:
            _, dtype, enabled, _, inner, *arguments = _mapped(node.args, values)
            cast = replace(region, autocast=dtype if enabled else None)
            return self.write(inner, dict(zip(_placeholders(inner), arguments, strict=True)), cast)
        if node.target is getitem and isinstance(_mapped(node.args[0], values), tuple | list):
            return _mapped(node.args[0], values)[node.args[1]]
        if region.autocast is not None and node.op == "call_function" and node.target is not getitem:
            return self._cast(node, values)
        return self.graph.node_copy(node, lambda other: values[other])

    def _without_gradients(self, inner: GraphModule, arguments: list[Any], region: _Region, *, enabled: bool) -> Any:
        if enabled and not region.gradients:
            raise ProgramError(
                "gradients are switched on inside of a region where they are off",
                cause="torch.enable_grad() inside of torch.no_grad(), in the model or in the loss function",
                alternatives=["keep the part that needs gradients outside of torch.no_grad()"],
            )
        if not enabled and region.gradients:
            arguments = [self._detached(argument) for argument in arguments]
        within = replace(region, gradients=enabled and region.gradients)
        return self.write(inner, dict(zip(_placeholders(inner), arguments, strict=True)), within)

    def _detached(self, argument: Any) -> Any:
        value = argument.meta.get("val") if isinstance(argument, Node) else None
        if not isinstance(value, Tensor) or not value.dtype.is_floating_point:
            return argument
        if argument.op == "get_attr" and not isinstance(self.attributes[str(argument.target)], torch.nn.Parameter):
            return argument
        node = self.graph.call_function(_aten.detach.default, (argument,))
        node.meta.update(argument.meta)
        return node

    def _cast(self, node: Node, values: Mapping[Node, Any]) -> Node:
        """The operation with its inputs cast as autocast does."""
        new = self.graph.node_copy(node, lambda other: values[other])
        expected = _dtype_of(node)
        if expected is None or _plain_dtype(new) == expected:
            return new
        with self.graph.inserting_before(new):
            new.args = map_arg(new.args, lambda argument: self._converted(argument, expected, node))
            new.kwargs = map_arg(new.kwargs, lambda argument: self._converted(argument, expected, node))
        return new

    def _converted(self, argument: Node, dtype: torch.dtype, user: Node) -> Node:
        value = argument.meta.get("val")
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return argument
        node = self.graph.call_function(_aten.to.dtype, (argument, dtype))
        node.meta.update({**user.meta, "val": value.to(dtype)})
        return node


def _placeholders(module: GraphModule) -> list[Node]:
    return [node for node in module.graph.nodes if node.op == "placeholder"]


def _mapped(arguments: Any, values: Mapping[Node, Any]) -> Any:
    if isinstance(arguments, Node):
        return values[arguments]
    if isinstance(arguments, tuple | list):
        return type(arguments)(_mapped(argument, values) for argument in arguments)
    return arguments


def _attribute(module: GraphModule, node: Node) -> Any:
    value: Any = module
    for name in str(node.target).split("."):
        value = getattr(value, name)
    return value


def _dtype_of(node: Node) -> torch.dtype | None:
    value = node.meta.get("val")
    first = value[0] if isinstance(value, tuple | list) and value else value
    return first.dtype if isinstance(first, Tensor) and first.is_floating_point() else None


def _plain_dtype(node: Node) -> torch.dtype | None:
    """The type of an operation's result without autocast; None where it refuses its inputs."""
    arguments, keywords = map_arg((node.args, node.kwargs), lambda argument: argument.meta["val"])
    operation: Any = node.target
    kinds = {key.type for key in [value.device for value in _tensors(arguments)]}
    try:
        with torch.autocast(next(iter(kinds), "cpu"), enabled=False), torch.no_grad():
            result = operation(*arguments, **keywords)
    except (RuntimeError, TypeError):
        return None
    first = result[0] if isinstance(result, tuple | list) and result else result
    return first.dtype if isinstance(first, Tensor) else None


def _tensors(arguments: Any) -> list[Tensor]:
    if isinstance(arguments, Tensor):
        return [arguments]
    if isinstance(arguments, tuple | list):
        return [tensor for argument in arguments for tensor in _tensors(argument)]
    return []
