"""Sections of a model without repeated blocks: what runs from one module with parameters to the next.

They stand in for blocks where a pipeline's stages are priced. What crosses a cut is taken for the input of the module
that begins there; a skip connection over it is known to the program only, whose own cut points decide in the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from meshwright.graph._graph import Block, Graph, Operation, Parameter
from meshwright.graph._linear import Linear

_KIND = "section between modules"
# So large that nothing would be freed by keeping it instead of activations: sections are not computed again, because
# what runs between modules has no module that could be.
_NOT_WORTH_IT = Linear(fixed=1e30)


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """Operations that follow one another.

    Args:
        path: of the module that begins it.
        first: index of its first forward operation.
        crossing: what the module's first operation reads besides parameters (B).
    """

    path: str
    first: int
    crossing: Linear


def sections(graph: Graph) -> tuple[Section, ...]:
    """The sections in order of execution; none where blocks are repeated, or where one module has all parameters."""
    if graph.blocks:
        return ()
    spans = _spans(graph)
    found: list[Section] = []
    for path, (first, last) in sorted(spans.items(), key=lambda item: item[1][0]):
        inside = any(low < first <= high for low, high in spans.values())
        nested = any(_is_within(path, one.path) or _is_within(one.path, path) for one in found)
        if not inside and not nested:
            reads = (item.bytes_read.per_example for item in graph.operations[first : last + 1])
            crossing = Linear(per_example=next((size for size in reads if size), 0.0))
            found.append(Section(path=path, first=first, crossing=crossing))
    return tuple(found) if len(found) > 1 else ()


def is_in_sections(graph: Graph) -> bool:
    """Whether a graph's blocks are sections, not repeated modules."""
    return any(block.kind == _KIND for block in graph.blocks)


def in_sections(graph: Graph) -> Graph:
    """The graph with its sections for blocks: operations, parameters and activations belong to the one they lie in."""
    found = sections(graph)
    if not found:
        return graph
    owner = _owners(graph, found)
    return replace(
        graph,
        operations=tuple(
            replace(item, module=path) if path else item for item, path in zip(graph.operations, owner, strict=True)
        ),
        parameters=tuple(_moved(item, graph, owner) for item in graph.parameters),
        activations=tuple(
            replace(item, module=owner[item.created] or item.module) if 0 <= item.created < len(owner) else item
            for item in graph.activations
        ),
        blocks=tuple(Block(paths=(one.path,), kind=_KIND, input_size=_NOT_WORTH_IT) for one in found),
    )


def _spans(graph: Graph) -> dict[str, tuple[int, int]]:
    """First and last forward operation of every module that has parameters of its own."""
    having = {path.rpartition(".")[0] for item in graph.parameters for path in item.paths} - {""}
    spans: dict[str, tuple[int, int]] = {}
    for index, item in enumerate(graph.operations):
        if item.phase == "forward" and item.module in having:
            first, _ = spans.get(item.module, (index, index))
            spans[item.module] = (first, index)
    return spans


def _owners(graph: Graph, found: Sequence[Section]) -> list[str]:
    """The section of every operation; empty for the loss, which follows the last module.

    A backward operation belongs where its module's forward is; what no module of a section runs stays with the loss.
    """
    last = max((high for _, high in _spans(graph).values()), default=-1)
    owner = [""] * len(graph.operations)
    home: dict[str, str] = {}
    for index, item in enumerate(graph.operations):
        if item.phase == "forward" and (index <= last or item.module):
            begun = [one.path for one in found if one.first <= index]
            owner[index] = begun[-1] if begun else found[0].path
            home.setdefault(item.module, owner[index])
    for index, item in enumerate(graph.operations):
        if item.phase == "backward" and item.module:
            owner[index] = home.get(item.module, "")
    return owner


def _moved(item: Parameter, graph: Graph, owner: Sequence[str]) -> Parameter:
    """The parameter below the section that reads it first."""
    module, _, name = item.paths[0].rpartition(".")
    place = next((index for index, one in enumerate(graph.operations) if _reads(one, module)), -1)
    if place < 0 or not owner[place]:
        return item
    return replace(item, paths=(f"{owner[place]}.{name}", *item.paths))


def _reads(operation: Operation, module: str) -> bool:
    return operation.phase == "forward" and operation.module == module


def _is_within(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}.")
