"""How the captured program can be split where the model's operations alone do not show it.

`derived_splits` finds the regions of repeated blocks. A program is split by rules for every operation, so that models
of any form can be; it takes a capture and a solution of seconds, and tells exchanges and parameters of one degree.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from meshwright.errors import PlanError, ProgramError
from meshwright.graph import ContextSplit, Graph, Linear, SplitExchange, SplitParameter, Splits, TensorSplit
from meshwright.graph.capture_batch import batch_size
from meshwright.plan import Pins, with_splits
from meshwright.run._job import Job

# Degrees that are looked for unasked.
_DEGREES = (8, 4, 2)

if TYPE_CHECKING:
    from meshwright.parallel.program import Program
    from meshwright.parallel.tensor import Scheme


def with_pinned_splits(job: Job, batch: Any, graph: Graph, pins: Pins) -> Graph:
    """The graph with what its program allows of pinned degrees that its operations alone do not show.

    Args:
        job: as the user handed it over.
        batch: a global batch.
        graph: of its step.
        pins: of which `tensor` and `context` are looked at.

    Raises:
        PlanError: the program cannot be split so either.
        ProgramError: the step is not one fixed graph.
    """
    known = with_splits(graph).splits or Splits()
    tensor = _missing(pins.tensor, known.tensor.degrees if known.tensor else ())
    context = _missing(pins.context, known.context.degrees if known.context else ())
    if not tensor and not context:
        return graph
    from meshwright.parallel.program import capture_program

    program, examples = capture_program(job.model, job.loss, batch), batch_size(batch)
    try:
        if tensor:
            known = replace(known, tensor=_tensor(graph, program, tensor, pins, examples=examples))
        if context:
            known = replace(known, context=_context(graph, program, context, examples=examples))
    except PlanError:
        if (tensor and known.tensor is None) or (context and known.context is None):
            raise
        return graph  # whose other degrees are named where pins are checked
    return replace(graph, splits=known)


def with_tensor_axis(job: Job, batch: Any, graph: Graph, *, most: int) -> Graph:
    """The graph with what its program allows of the tensor axis, where its repeated blocks show nothing of it.

    What the largest degree splits, its divisors split too. A step that is not one fixed graph stays as it is.

    Args:
        job: as the user handed it over.
        batch: a global batch.
        graph: of its step.
        most: workers of the axis.
    """
    known = with_splits(graph).splits or Splits()
    possible = [degree for degree in _DEGREES if degree <= most]
    if known.tensor is not None or not possible:
        return graph
    from meshwright.parallel.program import capture_program

    with suppress(ProgramError):
        program, examples = capture_program(job.model, job.loss, batch), batch_size(batch)
        for degree in possible:
            with suppress(PlanError):
                tensor = _tensor(graph, program, degree, Pins(), examples=examples)
                degrees = tuple(other for other in reversed(_DEGREES) if other <= degree)
                return replace(graph, splits=replace(known, tensor=replace(tensor, degrees=degrees)))
    return graph


def _missing(pinned: int | None, degrees: Iterable[int]) -> int:
    """The pinned degree, where it splits something and is not known; else 0."""
    return pinned if pinned is not None and pinned > 1 and pinned not in degrees else 0


def _tensor(graph: Graph, program: "Program", degree: int, pins: Pins, *, examples: int) -> TensorSplit:
    from meshwright.parallel.hybrid import best_scheme
    from meshwright.parallel.tensor import operation_of

    scheme = best_scheme(program, degree=degree, sequence=pins.sequence or "whole")
    nodes = [node for node in program.nodes if node.op == "call_function" and node.name in scheme.choices]
    divided = {operation_of(node, degree).module for node in nodes if scheme.choices[node.name].divided}
    first = {parameter.paths[0] for parameter in graph.parameters}
    exchanges = _exchanges(graph, scheme, examples=examples)
    return TensorSplit(
        degrees=(degree,),
        parameters=tuple(
            SplitParameter(path=one.parameter, dim=one.dim, groups=one.groups)
            for one in scheme.placements
            if one.parameter in first
        ),
        operations=tuple(index for index, item in enumerate(graph.operations) if item.module in divided),
        whole=exchanges,
        split=exchanges if pins.sequence == "split" else (),
    )


def _context(graph: Graph, program: "Program", degree: int, *, examples: int) -> ContextSplit:
    from meshwright.parallel.context import along_sequence
    from meshwright.parallel.expert import folded

    scheme = along_sequence(folded(program), degree=degree, attention="ring")
    return ContextSplit(
        degrees=(degree,),
        operations=tuple(index for index, item in enumerate(graph.operations) if item.bytes_written.per_example),
        ring=_exchanges(graph, scheme, examples=examples),
    )


def _exchanges(graph: Graph, scheme: "Scheme", *, examples: int) -> tuple[SplitExchange, ...]:
    """A scheme's exchanges by the example; of repeated blocks those of the first one, which stands for all."""
    found = []
    for one in scheme.exchanges:
        repeats = _repeats(graph, one.module)
        if repeats:
            size = Linear(per_example=one.size / examples)
            found.append(
                SplitExchange(
                    name=one.name, phase=one.phase, module=one.module, size=size, count=one.count, repeats=repeats  # type: ignore[arg-type]
                )
            )  # fmt: skip
    return tuple(found)


def _repeats(graph: Graph, module: str) -> int:
    """Instances of the block that a module is in, where it is in the first; 0 in others, and 1 outside of blocks."""
    for block in graph.blocks:
        for place, path in enumerate(block.paths):
            if module == path or module.startswith(f"{path}."):
                return 0 if place else len(block.paths)
    return 1
