"""Decides how a program is split over an axis."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Literal

from torch import Tensor, nn
from torch.fx import Node

from meshwright.cost import Placement
from meshwright.errors import PlanError
from meshwright.parallel.program import Program
from meshwright.parallel.tensor._layout import COPIED, REPLICATED, Layout, Split
from meshwright.parallel.tensor._operation import Choice
from meshwright.parallel.tensor._problem import Problem, Value, problem_of, tensor_of
from meshwright.parallel.tensor._rates import Rates, collectives_between
from meshwright.parallel.tensor._scheme import Exchange, Scheme
from meshwright.parallel.tensor._solver import Solution, solution_time, solve
from meshwright.parallel.tensor.rules import rule_of

# With the sequence split, a byte kept costs as much as so many bytes sent: memory is what the split is for.
_KEEPING = 50
# An axis that is wanted whatever it costs: a byte of a parameter held costs more and more, until nearly all are split.
_WANTING = (1, 8, 64, 512)
_NEARLY = 0.05
Sequencing = Literal["whole", "split"]


def choose_placements(
    program: Program,
    *,
    degree: int,
    sequence: Sequencing = "whole",
    rates: Rates | None = None,
    placements: Sequence[Placement] | None = None,
    inputs: Mapping[str, Layout] | None = None,
    gradients: Literal["whole", "partial"] = "whole",
) -> Scheme:
    """The scheme with the least predicted time of communication and of work done more than once.

    Args:
        program: on whole tensors.
        degree: workers of the axis.
        sequence: `split` has activations split along the sequence, their second dim, wherever it saves memory.
        rates: of the workers and the links between them; None: the axis is wanted even if work and exchanges take
            longer with it than without, because workers hold less.
        placements: given ones, of a plan; parameters and buffers that they leave out stay whole. None: all are free.
        inputs: layouts of placeholders that the workers hold parts of.
        gradients: `partial` leaves the gradients of unsplit parameters as parts of a sum, which is taken elsewhere.

    Raises:
        PlanError: given placements contradict each other or the program.
    """
    pinned = {**(inputs or {}), **_given(program, placements, gradients)}
    seeds = dict(_seeds(program, degree, sequence, pinned))
    problem = problem_of(program.graph_module, degree, pinned=pinned, seeds=seeds)
    _check(problem, pinned)
    solution = _solution(problem, sequence, rates)
    choices = {node.name: choice for node, choice in solution.choices.items()}
    return Scheme(
        degree=degree,
        placements=tuple(_placements(problem, solution.choices)),
        sequence=sequence,
        choices=choices,
        exchanges=tuple(_exchanges(problem, solution.choices)),
        notes=tuple(_notes(problem, solution.choices)),
        gathered=tuple(_gathered(problem, solution.choices)),
        time=solution_time(problem, solution.choices, rates or Rates()),
    )


def _solution(problem: Problem, sequence: Sequencing, rates: Rates | None) -> Solution:
    known = rates or Rates()
    if sequence == "split":
        known = replace(known, keeping=_KEEPING / known.bandwidth)
    free = any(len(problem.choices[node]) > 1 for node in problem.held)
    if rates is not None or not free:
        return solve(problem, known)
    found = []
    for factor in _WANTING:
        solution = solve(problem, replace(known, holding=factor * known.holding))
        found.append((_held(problem, solution), solution))
        if found[-1][0] <= 1 / problem.degree + _NEARLY:
            break
    least = min(share for share, _ in found)
    return next(solution for share, solution in found if share <= least + _NEARLY)


def _held(problem: Problem, solution: Solution) -> float:
    """The share of the parameters that one worker holds."""
    sizes = [
        (tensor.numel(), isinstance(solution.choices[node].results[0], Split))
        for node, tensor in problem.held.items()
        if isinstance(tensor, nn.Parameter)
    ]
    held = sum(size / problem.degree if split else size for size, split in sizes)
    return held / max(1, sum(size for size, _ in sizes))


def _given(
    program: Program, placements: Sequence[Placement] | None, gradients: Literal["whole", "partial"]
) -> dict[str, Layout]:
    if placements is None:
        return {}
    whole: dict[str, Layout] = dict.fromkeys((*program.parameters, *program.buffers), REPLICATED)
    if gradients == "partial":
        trained = (name for name, parameter in program.parameters.items() if parameter.requires_grad)
        whole |= dict.fromkeys(trained, COPIED)
    for placement in placements:
        if placement.parameter not in whole:
            raise PlanError(
                f"the plan splits {placement.parameter}, which the program does not have",
                cause="the model was changed after the plan was made",
                alternatives=["plan again"],
            )
        whole[placement.parameter] = Split(placement.dim, placement.groups)
    return whole


def _seeds(
    program: Program, degree: int, sequence: Sequencing, pinned: Mapping[str, Layout]
) -> Iterator[tuple[Node, tuple[Split, ...]]]:
    """Ways to split single tensors from which all others are found: parameters by each dim, activations by position."""
    for node in program.graph_module.graph.nodes:
        value = node.meta.get("val")
        name = str(node.target) if node.op == "get_attr" else node.name
        if not isinstance(value, Tensor):
            continue
        if isinstance(layout := pinned.get(name), Split):
            yield node, (layout,)
        elif name not in pinned and name in program.parameters:
            yield node, tuple(split for dim in range(value.ndim) if (split := Split(dim)).fits(value.shape, degree))
        elif sequence == "split" and node.op == "call_function" and value.ndim == 3 and value.is_floating_point():
            yield node, (Split(1),)


def _check(problem: Problem, pinned: Mapping[str, Layout]) -> None:
    for node, tensor in problem.held.items():
        layout = pinned.get(str(node.target))
        if isinstance(layout, Split) and not layout.fits(tuple(node.meta["val"].shape), problem.degree):
            raise PlanError(
                f"{node.target} of shape {list(tensor.shape)} cannot be split by dim {layout.dim} into "
                f"{layout.groups} × {problem.degree} equal parts",
                cause="the degree does not divide it",
                alternatives=["another degree of the tensor axis"],
            )


def _placements(problem: Problem, choices: Mapping[Node, Choice]) -> Iterator[Placement]:
    for node in problem.held:
        layout = choices[node].results[0]
        if isinstance(layout, Split):
            yield Placement(parameter=str(node.target), axis="tp", dim=layout.dim, groups=layout.groups)


def _conversions(problem: Problem, choices: Mapping[Node, Choice]) -> Iterator[tuple[Node, Value, Layout, Layout]]:
    """Every change of layout: the first reader, the value, its layout, and the one that is wanted."""
    seen = set()
    for node in problem.operations:
        for value, after in zip(problem.operand_values(node), choices[node].operands, strict=True):
            before = choices[value.producer].results[value.number]
            if before != after and (value, after) not in seen:
                seen.add((value, after))
                yield node, value, before, after


def _exchanges(problem: Problem, choices: Mapping[Node, Choice]) -> Iterator[Exchange]:
    counted: dict[tuple[str, str, str, int], int] = {}
    for node, value, before, after in _conversions(problem, choices):
        tensor = tensor_of(value)
        size = prod(tensor.shape) * tensor.element_size()
        with_gradient = value in problem.with_gradient
        for one in collectives_between(before, after, with_gradient=with_gradient):
            key = (one.name, one.phase, problem.operations[node].module, size)
            counted[key] = counted.get(key, 0) + 1
    for (name, phase, module, size), count in counted.items():
        yield Exchange(name=name, phase=phase, module=module, size=size, count=count)


def _notes(problem: Problem, choices: Mapping[Node, Choice]) -> Iterator[str]:
    if not any(isinstance(choices[node].results[0], Split) for node in problem.held):
        yield f"nothing to split over {problem.degree} workers: every one would do everything"


def _gathered(problem: Problem, choices: Mapping[Node, Choice]) -> Iterator[str]:
    """Operations that no rule does with the parts they are given: once for all modules that differ in numbers only."""
    counts: dict[tuple[str, str, str], int] = {}
    for node, operation in problem.operations.items():
        layouts = [choices[one.producer].results[one.number] for one in problem.operand_values(node)]
        if node.op != "call_function" or choices[node].divided or not _no_rule_for(problem.choices[node], layouts):
            continue
        module = ".".join("*" if part.isdigit() else part for part in operation.module.split("."))
        lacking = "has no rule for parts" if rule_of(node) is None else "has no rule for parts along that dim"
        key = operation.name, module, lacking
        counts[key] = counts.get(key, 0) + 1
    for (name, module, lacking), count in counts.items():
        where = f" in {module}" if module else ""
        times = f" ({count} times)" if count > 1 else ""
        yield f"{name}{where}{times} {lacking}: its operands are gathered and it is done whole"


def _no_rule_for(possible: Sequence[Choice], layouts: Sequence[Layout]) -> bool:
    """Whether some operand is split in a way in which none of an operation's choices takes it."""
    return any(
        isinstance(layout, Split) and not any(choice.operands[place] == layout for choice in possible)
        for place, layout in enumerate(layouts)
    )
