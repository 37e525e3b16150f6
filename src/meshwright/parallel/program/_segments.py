"""A program whose repeated blocks are modules of their own again.

`fully_shard`, recomputation and compilation work on modules; a captured graph has none. Every call of a block becomes a
child graph that holds the parameters only it reads, under the user's names.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import getitem
from typing import Any

from torch.fx import Graph, GraphModule, Node

from meshwright.parallel.program._program import Program


@dataclass(frozen=True, kw_only=True, slots=True)
class _Segment:
    """The operations of one call of a block.

    Args:
        path: of the block.
        call: which call of it, from 0.
        nodes: in the order of execution, nothing between them.
    """

    path: str
    call: int
    nodes: tuple[Node, ...]

    @property
    def name(self) -> str:
        """Path of the child module."""
        return self.path if self.call == 0 else f"{self.path}_call_{self.call}"


def segment(program: Program, block_paths: Collection[str]) -> Program:
    """The same program with a child `GraphModule` for every call of every block.

    The child of a block's first call has the block's path; a parameter that several children read, or one from outside
    of the block, is handed to the child as an argument.

    Args:
        program: any, split or not.
        block_paths: paths of the user's modules; those that the graph does not know are left out.
    """
    segments = list(_segments(program, block_paths))
    graph = Graph()
    values: dict[Node, Node] = {}
    owners = {node: part for part in segments for node in part.nodes}
    attributes: dict[str, Any] = {}
    for node in program.nodes:
        part = owners.get(node)
        if part is None:
            values[node] = graph.node_copy(node, lambda other: values[other])
            if node.op in ("get_attr", "call_module"):
                attributes[str(node.target)] = _attribute(program.graph_module, str(node.target))
        elif node is part.nodes[-1]:
            _call(part, graph, values, attributes, program.graph_module)
    for node in [node for node in graph.nodes if node.op == "get_attr" and not node.users]:
        graph.erase_node(node)
    used = {str(node.target) for node in graph.nodes if node.op in ("get_attr", "call_module")}
    graph_module = GraphModule({name: value for name, value in attributes.items() if name in used}, graph)
    return replace(program, graph_module=graph_module)


def _call(
    part: _Segment,
    graph: Graph,
    values: dict[Node, Node],
    attributes: dict[str, Any],
    root: GraphModule,
) -> None:
    """Writes a segment as a child and a call of it."""
    inside = set(part.nodes)
    sources = dict.fromkeys(source for node in part.nodes for source in node.all_input_nodes if source not in inside)
    own = [source for source in sources if _is_own(source, part, inside)]
    inputs = [source for source in sources if source not in own]
    outputs = [node for node in part.nodes if any(user not in inside for user in node.users)]
    child = _child(part, own, inputs, outputs, root)
    attributes[part.name] = child
    call = graph.call_module(part.name, tuple(values[source] for source in inputs))
    call.meta.update(part.nodes[-1].meta)
    call.meta["val"] = tuple(node.meta.get("val") for node in outputs)
    for number, output in enumerate(outputs):
        values[output] = graph.call_function(getitem, (call, number))
        values[output].meta.update(output.meta)


def _child(
    part: _Segment, own: Sequence[Node], inputs: Sequence[Node], outputs: Sequence[Node], root: GraphModule
) -> GraphModule:
    graph = Graph()
    values: dict[Node, Node] = {}
    attributes: dict[str, Any] = {}
    for source in inputs:
        values[source] = graph.placeholder(source.name)
        values[source].meta.update(source.meta)
    for source in own:
        name = str(source.target).removeprefix(f"{part.path}.")
        values[source] = graph.create_node("get_attr", name)
        values[source].meta.update(source.meta)
        attributes[name] = _attribute(root, str(source.target))
    for node in part.nodes:
        values[node] = graph.node_copy(node, lambda other: values[other])
        if node.op == "call_module":
            attributes[str(node.target)] = _attribute(root, str(node.target))
    graph.output(tuple(values[node] for node in outputs))
    return GraphModule(attributes, graph)


def _segments(program: Program, block_paths: Collection[str]) -> Iterator[_Segment]:
    """The longest run of operations of every call of a block."""
    operations = [node for node in program.nodes if node.op in ("call_function", "call_module")]
    calls = _filled([_call_of(node, block_paths) for node in operations])
    longest: dict[tuple[str, int], list[Node]] = {}
    for call, run in groupby(zip(operations, calls, strict=True), key=lambda pair: pair[1]):
        nodes = [node for node, _ in run]
        if call is not None and len(nodes) > len(longest.get(call, [])):
            longest[call] = nodes
    first = {path: min(call for other, call in longest if other == path) for path, _ in longest}
    for (path, call), nodes in longest.items():
        yield _Segment(path=path, call=call - first[path], nodes=tuple(nodes))


def _call_of(node: Node, block_paths: Collection[str]) -> tuple[str, int] | str | None:
    """The outermost block around an operation, and which call of it; "" for one that nobody's module ran."""
    if "stack" not in node.meta:
        return ""
    return next(((path, call) for path, call in node.meta["stack"] if path in block_paths), None)


def _filled(calls: Sequence[Any]) -> list[tuple[str, int] | None]:
    """Operations that were put between two of the same call belong to it."""
    filled: list[Any] = list(calls)
    start = 0
    while start < len(filled):
        end = start
        while end < len(filled) and filled[end] == "":
            end += 1
        if end > start:
            before = filled[start - 1] if start else None
            after = filled[end] if end < len(filled) else None
            filled[start:end] = [before if before == after else None] * (end - start)
        start = end + 1
    return filled


def _is_own(source: Node, part: _Segment, inside: Collection[Node]) -> bool:
    """Whether a tensor belongs to a block and is read by this call only."""
    if source.op != "get_attr" or not str(source.target).startswith(f"{part.path}.") or part.call:
        return False
    return all(user in inside for user in source.users)


def _attribute(module: Any, name: str) -> Any:
    for part in name.split("."):
        module = getattr(module, part)
    return module
