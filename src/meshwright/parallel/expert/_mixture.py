"""Mixtures of experts in a captured program: products of rows, sorted by expert, with one matrix per expert."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import getitem

from torch import Tensor
from torch.fx import Node

from meshwright.errors import PlanError
from meshwright.parallel.program import Program
from meshwright.parallel.tensor._operation import operation_name
from meshwright.parallel.tensor.rules._pointwise import is_pointwise

_PRODUCTS = ("aten._grouped_mm", "transformers.grouped_mm_fallback")
# What keeps the first dim of a parameter where it is.
_KEEPING_FIRST = ("aten.transpose", "aten.to", "aten.contiguous", "aten.clone", "aten.mT", "aten.permute")
_BY_ROW = ("aten.chunk", "aten.split", "aten.split_with_sizes", "aten.slice", "aten.softmax", "aten.layer_norm")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Mixture:
    """One mixture, from its sorted tokens to its experts' outputs.

    Args:
        module: path of the module.
        offsets: node that gives where each expert's rows end.
        rows: how many rows there are.
        inside: nodes that work on rows, in the order of execution.
        entries: nodes outside whose rows are read inside.
        exits: nodes inside whose rows are read outside.
        parameters: names of the parameters that hold one matrix per expert.
        experts: how many there are.
    """

    module: str
    offsets: Node
    rows: int
    inside: tuple[Node, ...]
    entries: tuple[Node, ...]
    exits: tuple[Node, ...]
    parameters: tuple[str, ...]
    experts: int


def mixtures(program: Program) -> list[Mixture]:
    """The mixtures of a program whose experts are computed by grouped products.

    Raises:
        PlanError: a mixture mixes rows between its products, so that they cannot be elsewhere meanwhile.
    """
    products: dict[Node, list[Node]] = {}
    for node in program.graph_module.graph.nodes:
        if node.op == "call_function" and operation_name(node.target) in _PRODUCTS:
            products.setdefault(_offsets(node), []).append(node)
    return [_mixture(program, offsets, found) for offsets, found in products.items()]


def _mixture(program: Program, offsets: Node, products: Sequence[Node]) -> Mixture:
    nodes = list(program.graph_module.graph.nodes)
    inside = _between(nodes, products)
    rows = int(products[0].meta["val"].shape[0])
    module = str(products[0].meta.get("module") or "")
    for node in inside:
        _check_by_row(node, products, rows, module)
    within = set(inside)
    entries = {
        operand: None
        for node in inside
        for operand in node.all_input_nodes
        if operand not in within and operand is not offsets and _has_rows(operand, rows)
    }
    weights = [node.args[1] for node in products]
    names = [_parameter(weight, module) for weight in weights if isinstance(weight, Node)]
    return Mixture(
        module=module,
        offsets=offsets,
        rows=rows,
        inside=tuple(inside),
        entries=tuple(entries),
        exits=tuple(node for node in inside if any(user not in within for user in node.users)),
        parameters=tuple(dict.fromkeys(names)),
        experts=int(offsets.meta["val"].shape[0]),
    )


def _offsets(node: Node) -> Node:
    found = node.args[2] if len(node.args) > 2 else node.kwargs.get("offs")
    if not isinstance(found, Node):
        raise PlanError(
            f"{node.name} multiplies groups of equal length",
            cause="tokens cannot be told apart by expert",
            alternatives=["--set expert=1"],
        )
    return found


def _between(nodes: Sequence[Node], products: Sequence[Node]) -> list[Node]:
    """The products and what lies on a way from one to another."""
    after, before = set(products), set(products)
    for node in nodes:
        if any(operand in after for operand in node.all_input_nodes):
            after.add(node)
    for node in reversed(nodes):
        if any(user in before for user in node.users):
            before.add(node)
    return [node for node in nodes if node in after and node in before and node.op == "call_function"]


def _check_by_row(node: Node, products: Sequence[Node], rows: int, module: str) -> None:
    if node in products or node.target is getitem:
        return
    name = operation_name(node.target)
    if is_pointwise(node) or (name in _BY_ROW and _keeps_rows(node, rows)):
        return
    raise PlanError(
        f"{name} in {module or 'the model'} works on all tokens of its experts at once",
        cause="tokens of several workers are with their experts there",
        alternatives=["--set expert=1", "experts split over the tensor axis: --set tensor=2"],
    )


def _keeps_rows(node: Node, rows: int) -> bool:
    return all(value.shape[0] == rows for value in _tensors(node.meta.get("val")))


def _has_rows(node: Node, rows: int) -> bool:
    values = list(_tensors(node.meta.get("val")))
    return bool(values) and all(value.ndim and value.shape[0] == rows for value in values)


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _parameter(node: Node, module: str) -> str:
    """The parameter that a product's matrices come from."""
    while node.op == "call_function" and operation_name(node.target) in _KEEPING_FIRST:
        (node,) = node.all_input_nodes[:1]
    if node.op != "get_attr":
        raise PlanError(
            f"the experts' matrices of {module or 'the model'} are computed by {node.name}",
            cause="they have to be parameters with one matrix per expert along their first dim",
            alternatives=["--set expert=1"],
        )
    return str(node.target)
