"""Tokens sorted by expert, as one node while a program is split along its sequences.

A worker that has some positions sorts their tokens alone: in which order rows meet their experts does not matter, and
where they come out they are in the order of the tokens again. Between, a part of the rows is not a part of the whole
order, so no operation there may be looked at by itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from meshwright.errors import PlanError
from meshwright.parallel.expert._mixture import Mixture, mixtures
from meshwright.parallel.program import Program
from meshwright.parallel.tensor import ByRow
from meshwright.parallel.tensor._operation import operation_name
from meshwright.parallel.tensor.rules._pointwise import is_pointwise

_ORDER = ("aten.sort", "aten.argsort")
_COUNTS = ("aten.histc", "aten.bincount", "aten.cumsum")
_ROWS = ("aten.floor_divide", "aten.index", "aten.empty_like", "aten.index_put", "aten.arange")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sorting:
    """What lies between a mixture's routing and its tokens' outputs.

    Args:
        nodes: in the order of execution; the last one puts the rows back in the order of the tokens.
        operands: nodes outside that are read inside.
        rows: for each operand, whether its first dim is that of tokens or rows; else it is a parameter.
        count: rows.
    """

    nodes: tuple[Node, ...]
    operands: tuple[Node, ...]
    rows: tuple[bool, ...]
    count: int

    def __call__(self, *arguments: Any) -> Any:
        """The outputs of any number of tokens."""
        values = dict(zip(self.operands, arguments, strict=True))
        share = _share(self, arguments)
        for node in self.nodes:
            args, kwargs = map_arg((_sized(node, self, share), node.kwargs), lambda other: values[other])
            values[node] = node.target(*args, **kwargs)  # pyrefly: ignore
        return values[self.nodes[-1]]


def folded(program: Program) -> Program:
    """The program with one node for every sorting that can be done by each worker for its own tokens."""
    found = list(_sortings(program))
    if not found:
        return program
    ends = {one.nodes[-1]: one for one in found}
    inside = {node for one in found for node in one.nodes}
    graph, copies = Graph(), {}
    for node in program.graph_module.graph.nodes:
        if node in ends:
            one = ends[node]
            target = ByRow("sorted_experts", rows=one.rows, piece=one)
            copies[node] = graph.call_function(target, tuple(copies[operand] for operand in one.operands))
            copies[node].meta.update(node.meta)
        elif node not in inside:
            copies[node] = graph.node_copy(node, lambda other: copies[other])
    return replace(program, graph_module=GraphModule(program.graph_module, graph))


def unfolded(program: Program) -> Program:
    """The program with the operations of every sorting in its place, for as many rows as come in."""
    graph, copies = Graph(), {}
    for node in program.graph_module.graph.nodes:
        piece = node.target.piece if isinstance(node.target, ByRow) else None
        if isinstance(piece, Sorting):
            copies[node] = _written(graph, piece, [copies[operand] for operand in node.args])
        else:
            copies[node] = graph.node_copy(node, lambda other: copies[other])
    return replace(program, graph_module=GraphModule(program.graph_module, graph))


def check_alone(program: Program) -> None:
    """Refuses a program whose tokens cannot be sorted by each worker for its own positions.

    Raises:
        PlanError: names the mixture.
    """
    ends = {node for one in _sortings(program) for node in one.nodes}
    for mixture in mixtures(program):
        if not set(mixture.inside) <= ends:
            raise PlanError(
                f"expert and context together: the tokens of {mixture.module or 'the model'} cannot be sorted apart",
                cause="its rows are counted, ordered or read in a way that depends on those of all positions",
                alternatives=["--set context=1", "--set expert=1: experts are computed beside the split sequence"],
                command="meshwright plan SCRIPT",
            )


def _sortings(program: Program) -> Iterator[Sorting]:
    nodes = list(program.graph_module.graph.nodes)
    try:
        found = mixtures(program)
    except PlanError:
        return
    for mixture in found:
        one = _sorting(nodes, mixture)
        if one is not None:
            yield one


def _sorting(nodes: Sequence[Node], mixture: Mixture) -> Sorting | None:
    """From the sort that the offsets count to where rows are back in order; None where that is not all by row."""
    order = next((node for node in _before(mixture.offsets) if operation_name(node.target) in _ORDER), None)
    if order is None:
        return None
    after = {order}
    for node in nodes:
        if node.op == "call_function" and any(operand in after for operand in node.all_input_nodes):
            after.add(node)
    end = next((node for node in nodes if node in after and _puts_back(node, order)), None)
    if end is None:
        return None
    needed = {end}
    for node in reversed(nodes):
        if node.op == "call_function" and any(user in needed for user in node.users):
            needed.add(node)
    own = needed & after
    own |= {node for node in needed - after if node.users and set(node.users) <= own and not _reads_rows(node)}
    own |= {node for node in needed - own if _is_of_parameter(node) and set(node.users) <= own}
    inside = tuple(node for node in nodes if node in own)
    operands = tuple(
        dict.fromkeys(operand for node in inside for operand in node.all_input_nodes if operand not in own)
    )
    closed = all(node is end or set(node.users) <= own for node in inside)
    if not closed or not all(_is_by_row(node, order, mixture) for node in inside):
        return None
    rows = tuple(str(operand.target) not in mixture.parameters for operand in operands)
    fits = all(
        operand.op != "get_attr" and _divides(operand, mixture.rows)
        for operand, has in zip(operands, rows, strict=True)
        if has
    )
    return Sorting(nodes=inside, operands=operands, rows=rows, count=mixture.rows) if fits else None


def _before(node: Node) -> Iterator[Node]:
    """A node's operands, nearest first."""
    pending = [node]
    for found in pending:
        yield found
        pending += [operand for operand in found.all_input_nodes if operand not in pending]


def _puts_back(node: Node, order: Node) -> bool:
    """Whether a node picks rows by the inverse of the sort's permutation."""
    if operation_name(node.target) != "aten.index" or not isinstance(indices := node.args[1], list | tuple):
        return False
    inverse = indices[0] if len(indices) == 1 else None
    if not isinstance(inverse, Node):
        return False
    name = operation_name(inverse.target)
    if name == "aten.argsort":
        return _is_permutation(inverse.args[0], order)
    if name != "aten.index_put" or not isinstance(places := inverse.args[1], list | tuple):
        return False
    numbers = inverse.args[2]
    counted = isinstance(numbers, Node) and operation_name(numbers.target) == "aten.arange" and len(numbers.args) == 1
    return counted and len(places) == 1 and _is_permutation(places[0], order)


def _is_permutation(node: Any, order: Node) -> bool:
    """Whether a node is where the sorted rows come from."""
    if operation_name(order.target) == "aten.argsort":
        return node is order
    return isinstance(node, Node) and node.args[:2] == (order, 1)


def _reads_rows(node: Node) -> bool:
    return bool(node.all_input_nodes)


def _is_of_parameter(node: Node) -> bool:
    """Whether a node rearranges a parameter and reads nothing else."""
    while node.op == "call_function" and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return node.op == "get_attr"


def _is_by_row(node: Node, order: Node, mixture: Mixture) -> bool:
    name = operation_name(node.target)
    if node is order:
        return node.meta["val"][0].ndim == 1 if name == "aten.sort" else node.meta["val"].ndim == 1
    if name == "aten.arange":
        return node.args == (mixture.rows,)
    if name == "aten.unsqueeze":
        return node.meta["val"].shape[0] == mixture.rows
    known = name in _COUNTS + _ROWS or node in mixture.inside or is_pointwise(node) or name == "getitem"
    return known or _is_of_parameter(node)


def _divides(node: Node, rows: int) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] > 0 and rows % value.shape[0] == 0


def _share(one: Sorting, arguments: Sequence[Any]) -> float:
    """How much of the rows comes in."""
    pairs = zip(one.operands, one.rows, arguments, strict=True)
    return next(given.shape[0] / operand.meta["val"].shape[0] for operand, has_rows, given in pairs if has_rows)


def _sized(node: Node, one: Sorting, share: float) -> tuple[Any, ...]:
    """A node's arguments, its number of rows as it is for a share of them."""
    return (round(one.count * share),) if operation_name(node.target) == "aten.arange" else node.args


def _written(graph: Graph, one: Sorting, arguments: Sequence[Node]) -> Node:
    copies: dict[Node, Node] = dict(zip(one.operands, arguments, strict=True))
    share = _share(one, [argument.meta["val"] for argument in arguments])
    for node in one.nodes:
        copies[node] = graph.node_copy(node, lambda other: copies[other])
        copies[node].args = map_arg(_sized(node, one, share), lambda other: copies[other])
        if operation_name(node.target) not in _COUNTS and not _is_of_parameter(node):
            copies[node].meta["val"] = _part(node.meta["val"], share)
    return copies[one.nodes[-1]]


def _part(value: Any, share: float) -> Any:
    if isinstance(value, Tensor):
        return value.new_empty((round(value.shape[0] * share), *value.shape[1:]))
    return type(value)(_part(item, share) for item in value)
