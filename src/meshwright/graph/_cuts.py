"""The units of a model in the order of execution, and the points between them at which a pipeline can be cut."""

from collections.abc import Iterator
from dataclasses import dataclass

from meshwright.graph._graph import Block, Graph
from meshwright.graph._sections import sections
from meshwright.graph._splits import Cut


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """One instance of a repeated block.

    Args:
        path: of the module.
        block: index of its kind in `Graph.blocks`.
    """

    path: str
    block: int


def instances(graph: Graph) -> tuple[Instance, ...]:
    """Every instance of every block in the order of execution.

    Blocks of one instance each stand in the order of their first operations. Kinds that alternate within one list of
    modules are sorted by their place in it; lists follow one another as their first operations do.
    """
    first = _first_operations(graph)
    if all(len(block.paths) == 1 for block in graph.blocks):
        numbers = sorted(range(len(graph.blocks)), key=lambda number: first.get(number, 0))
        return tuple(Instance(path=graph.blocks[number].paths[0], block=number) for number in numbers)
    lists: dict[str, list[tuple[int, Instance]]] = {}
    for number, block in enumerate(graph.blocks):
        for order, path in enumerate(block.paths):
            parent, _, last = path.rpartition(".")
            place = int(last) if last.isdigit() else order
            lists.setdefault(parent, []).append((place, Instance(path=path, block=number)))
    ordered = sorted(lists.values(), key=lambda items: min(first.get(item.block, 0) for _, item in items))
    return tuple(item for items in ordered for _, item in sorted(items, key=lambda pair: pair[0]))


def cuts(graph: Graph) -> tuple[Cut, ...]:
    """A cut before every instance but what the model begins with, and one before what follows the last of them.

    A model without repeated blocks can be cut before every section but the first.
    """
    if not graph.blocks:
        return tuple(Cut(path=one.path, size=one.crossing) for one in sections(graph)[1:])
    return tuple(_cuts(graph, graph.blocks))


def _cuts(graph: Graph, blocks: tuple[Block, ...]) -> Iterator[Cut]:
    every = instances(graph)
    first = _first_operations(graph)
    begins = min(first.values(), default=0)
    for number, item in enumerate(every):
        if number or _computes_before(graph, begins):
            yield Cut(path=item.path, size=blocks[item.block].input_size)
    after = _module_after(graph)
    if every and after:
        yield Cut(path=after, size=blocks[every[-1].block].input_size)


def _first_operations(graph: Graph) -> dict[int, int]:
    """Index of the first forward operation of every kind of block."""
    first: dict[int, int] = {}
    for index, item in enumerate(graph.operations):
        for number, block in enumerate(graph.blocks):
            path = block.paths[0]
            inside = item.module == path or item.module.startswith(f"{path}.")
            if inside and item.phase == "forward":
                first.setdefault(number, index)
    return first


def _computes_before(graph: Graph, index: int) -> bool:
    """Whether there is more than views before an operation."""
    return any(item.kind != "view" for item in graph.operations[:index])


def _module_after(graph: Graph) -> str:
    """The first module that runs after the last block; empty where only the loss does."""
    paths = tuple(block.paths[0] for block in graph.blocks)
    forward = [item for item in graph.operations if item.phase == "forward"]
    inside = [any(item.module == path or item.module.startswith(f"{path}.") for path in paths) for item in forward]
    if not any(inside):
        return ""
    last = len(inside) - 1 - inside[::-1].index(True)
    return next((item.module for item in forward[last + 1 :] if item.kind != "view" and item.module), "")
