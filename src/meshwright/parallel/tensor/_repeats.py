"""Equal blocks of a model, so that they are laid out equally and decided about once."""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable

from torch.fx import Node

from meshwright.parallel.tensor._problem import Problem

_NUMBER = re.compile(r"(?:^|\.)\d+(?=\.|$)")


def repeated_nodes(problem: Problem) -> dict[Node, Node]:
    """The node that stands for each node: the same one of the first equal block, or itself.

    Blocks are what modules with a number in their path run (`layers.3`); they are equal if the same operations on the
    same shapes follow one another in them. The outermost number that makes equal blocks counts.
    """
    stands_for: dict[Node, Node] = {}
    for depth in range(4):
        blocks: dict[str, list[Node]] = defaultdict(list)
        for node in problem.operations:
            path = _prefix(problem.operations[node].module, depth)
            if path and node not in stands_for:
                blocks[path].append(node)
        equal: dict[Hashable, list[list[Node]]] = defaultdict(list)
        for path, nodes in blocks.items():
            equal[_NUMBER.sub(".*", path), _signature(problem, path, nodes)].append(nodes)
        for instances in equal.values():
            if len(instances) > 1:
                for nodes in instances:
                    stands_for.update(zip(nodes, instances[0], strict=True))
    for node in problem.operations:
        stands_for.setdefault(node, node)
    _add_held(problem, stands_for)
    return stands_for


def _add_held(problem: Problem, stands_for: dict[Node, Node]) -> None:
    """What a block holds stands for what the other blocks hold in the same place, if it has one place only."""
    places: dict[Node, list[tuple[Node, int]]] = defaultdict(list)
    for node, operation in problem.operations.items():
        for place, operand in enumerate(operation.operands):
            if operand.op in ("get_attr", "placeholder"):
                places[operand].append((stands_for[node], place))
    first: dict[Hashable, Node] = {}
    for node, value in problem.values.items():
        if node.op not in ("get_attr", "placeholder"):
            continue
        key = (tuple(places[node]), problem.shape(value), tuple(c.results for c in problem.choices[node]))
        alone = node.op == "placeholder" or not places[node]
        stands_for[node] = node if alone else first.setdefault(key, node)


def _prefix(path: str, depth: int) -> str:
    """A path up to its number at a depth, outermost 0; empty where there is none."""
    found = list(_NUMBER.finditer(path))
    return path[: found[depth].end()] if depth < len(found) else ""


def _signature(problem: Problem, path: str, nodes: Iterable[Node]) -> Hashable:
    position = {}
    lines = []
    for node in nodes:
        operation = problem.operations[node]
        position[node] = len(position)
        inside = tuple(position.get(value.producer, -1) for value in problem.operand_values(node))
        lines.append(
            (
                operation.name,
                operation.module.removeprefix(path),
                operation.shapes,
                operation.results,
                inside,
                tuple(value in problem.with_gradient for value in problem.operand_values(node)),
            )
        )
    return tuple(lines)
