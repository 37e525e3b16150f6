"""The cheapest layout of a program, exactly: an integer program of choices and changes of layout."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

import highspy
import numpy as np
from torch.fx import Node

from meshwright.errors import PlanError
from meshwright.parallel.tensor._layout import Layout, Split, order
from meshwright.parallel.tensor._operation import Choice
from meshwright.parallel.tensor._problem import Problem, Value, tensor_of, written_operands
from meshwright.parallel.tensor._rates import Rates, conversion_time, work_time
from meshwright.parallel.tensor._repeats import repeated_nodes
from meshwright.units import Seconds


@dataclass(frozen=True, slots=True)
class Solution:
    """A choice for every operation and held tensor.

    Args:
        choices: by node.
        time: communication and work of one micro-batch (s).
    """

    choices: Mapping[Node, Choice]
    time: Seconds


@dataclass(slots=True)
class _Rows:
    """An integer program row by row."""

    cost: list[float] = field(default_factory=list)
    integer: list[bool] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    columns: list[int] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)

    def variable(self, cost: float, *, integer: bool) -> int:
        """A variable between 0 and 1."""
        self.cost.append(cost)
        self.integer.append(integer)
        return len(self.cost) - 1

    def row(self, terms: list[tuple[int, float]], lower: float, upper: float) -> None:
        """lower <= sum of factor × variable <= upper."""
        for column, factor in terms:
            self.columns.append(column)
            self.factors.append(factor)
        self.starts.append(len(self.columns))
        self.lower.append(lower)
        self.upper.append(upper)


def solve(problem: Problem, rates: Rates) -> Solution:
    """The choices with the least predicted time; equal blocks get equal ones.

    Variables: x[n, c], node n does choice c; f[v, m, s, t], value v, produced in layout s, is read by m in layout t;
    z[v, s, t], it is changed from s to t, once for all that read it so.
        minimise    sum work(n, c) x[n, c] + sum conversion(v, s, t) z[v, s, t]
        subject to  sum_c x[n, c] = 1
                    sum_t f[v, m, s, t] = sum of x[n, c] over the choices c of the producer n that give s
                    sum_s f[v, m, s, t] = sum of x[m, c] over the choices c of the consumer m that need t
                    z[v, s, t] >= f[v, m, s, t]

    A held tensor that is split is read as it is: gathering it in every step is what sharding over data ranks is for.

    Raises:
        PlanError: given layouts contradict each other.
    """
    stands_for = repeated_nodes(problem)
    program = _Rows()
    choices = _merged_choices(problem, stands_for)
    variables = _choice_variables(problem, stands_for, choices, rates, program)
    _conversions(problem, stands_for, choices, variables, rates, program)
    values = _solved(program)
    picked = {node: max(range(len(numbers)), key=lambda i: values[numbers[i]]) for node, numbers in variables.items()}
    found = {node: choices[stands_for[node]][picked[stands_for[node]]] for node in problem.choices}
    return Solution(found, solution_time(problem, found, rates))


def solution_time(problem: Problem, choices: Mapping[Node, Choice], rates: Rates) -> Seconds:
    """Predicted communication and work of one micro-batch (s)."""
    total = sum(choice_time(problem, node, choice, rates) for node, choice in choices.items())
    needed: set[tuple[Value, Layout]] = set()
    for node in problem.operations:
        needed |= set(zip(problem.operand_values(node), choices[node].operands, strict=True))
    for value, layout in needed:
        total += value_time(problem, value, choices[value.producer].results[value.number], layout, rates)
    return total


def choice_time(problem: Problem, node: Node, choice: Choice, rates: Rates) -> Seconds:
    """Work of an operation, or what a held tensor costs by its size."""
    if node in problem.held:
        tensor = problem.held[node]
        share = problem.degree if isinstance(choice.results[0], Split) else 1
        return tensor.numel() * tensor.element_size() / share * rates.holding
    if node not in problem.operations:
        return 0.0
    share = problem.degree if choice.divided else 1
    return work_time(problem.operations[node], rates) / share


def value_time(problem: Problem, value: Value, before: Layout, after: Layout, rates: Rates) -> Seconds:
    """Time of giving a value another layout."""
    tensor = tensor_of(value)
    size = prod(tensor.shape) * tensor.element_size()
    with_gradient = value in problem.with_gradient
    return conversion_time(before, after, size, problem.degree, rates, with_gradient=with_gradient)


def _merged_choices(problem: Problem, stands_for: Mapping[Node, Node]) -> dict[Node, list[Choice]]:
    """For each node that stands for others, the choices that any of them has."""
    found: dict[Node, dict[Choice, None]] = defaultdict(dict)
    for node, choices in problem.choices.items():
        found[stands_for[node]].update(dict.fromkeys(choices))
    return {node: list(choices) for node, choices in found.items()}


def _choice_variables(
    problem: Problem,
    stands_for: Mapping[Node, Node],
    choices: Mapping[Node, list[Choice]],
    rates: Rates,
    program: _Rows,
) -> dict[Node, list[int]]:
    counts: dict[Node, int] = defaultdict(int)
    for node in problem.choices:
        counts[stands_for[node]] += 1
    variables = {}
    for node, options in choices.items():
        times = [counts[node] * choice_time(problem, node, choice, rates) for choice in options]
        variables[node] = [program.variable(time, integer=True) for time in times]
        program.row([(number, 1.0) for number in variables[node]], 1.0, 1.0)
    return variables


def _conversions(
    problem: Problem,
    stands_for: Mapping[Node, Node],
    choices: Mapping[Node, list[Choice]],
    variables: Mapping[Node, list[int]],
    rates: Rates,
    program: _Rows,
) -> None:
    kept = {operand for operation in problem.operations.values() for operand in written_operands(operation)}
    for (producer, number, consumers), values in _value_classes(problem, stands_for).items():
        given = _by_layout(
            [
                (choice.results[number], column)
                for choice, column in zip(choices[producer], variables[producer], strict=True)
            ]
        )
        written = producer in kept
        held = producer.op == "get_attr"
        needs = {
            (node, place): _by_layout(
                [
                    (choice.operands[place], column)
                    for choice, column in zip(choices[node], variables[node], strict=True)
                ]
            )
            for node, place in consumers
        }
        times = {
            (before, after): len(values) * value_time(problem, values[0], before, after, rates)
            for before in given
            for after in {layout for need in needs.values() for layout in need}
            if before == after or not (written or (held and isinstance(before, Split)))
        }
        shared = _shared(times, program) if len(needs) > 1 else {}
        for need in needs.values():
            _flows(given, need, times, shared, program)


def _shared(times: Mapping[tuple[Layout, Layout], float], program: _Rows) -> dict[tuple[Layout, Layout], int]:
    """A variable per change of layout that several consumers read the result of."""
    return {key: program.variable(time, integer=False) for key, time in sorted(times.items(), key=_pair_order) if time}


def _flows(
    given: Mapping[Layout, list[int]],
    need: Mapping[Layout, list[int]],
    times: Mapping[tuple[Layout, Layout], float],
    shared: Mapping[tuple[Layout, Layout], int],
    program: _Rows,
) -> None:
    """How one consumer comes by the layout that it needs."""
    flows: dict[tuple[Layout, Layout], int] = {}
    for key, time in sorted(times.items(), key=_pair_order):
        if key[1] not in need:
            continue
        flows[key] = program.variable(0.0 if shared else time, integer=False)
        if key in shared:
            program.row([(shared[key], 1.0), (flows[key], -1.0)], 0.0, np.inf)
    for side, columns in ((0, given), (1, need)):
        for layout in sorted(columns, key=order):
            terms = [(flow, 1.0) for key, flow in flows.items() if key[side] == layout]
            program.row([*terms, *((column, -1.0) for column in columns[layout])], 0.0, 0.0)


def _pair_order(item: tuple[tuple[Layout, Layout], float]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    (before, after), _ = item
    return order(before), order(after)


def _value_classes(
    problem: Problem, stands_for: Mapping[Node, Node]
) -> dict[tuple[Node, int, tuple[tuple[Node, int], ...]], list[Value]]:
    """Values with the same producer and the same consumers, up to equal blocks."""
    consumers: dict[Value, dict[tuple[Node, int], None]] = defaultdict(dict)
    for node in problem.operations:
        for place, value in enumerate(problem.operand_values(node)):
            consumers[value][stands_for[node], place] = None
    found: dict[tuple[Node, int, tuple[tuple[Node, int], ...]], list[Value]] = defaultdict(list)
    for value, places in consumers.items():
        found[stands_for[value.producer], value.number, tuple(places)].append(value)
    return found


def _by_layout(pairs: list[tuple[Layout, int]]) -> dict[Layout, list[int]]:
    found: dict[Layout, list[int]] = defaultdict(list)
    for layout, column in pairs:
        found[layout].append(column)
    return found


def _solved(program: _Rows) -> np.ndarray:
    """The values of the variables in the optimum."""
    count, rows = len(program.cost), len(program.lower)
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = count, rows
    # seconds are small numbers for a solver that works to 1e-6
    scale = max(program.cost) or 1.0
    model.col_cost_ = np.array(program.cost) / scale * 1e4
    model.col_lower_, model.col_upper_ = np.zeros(count), np.ones(count)
    model.row_lower_, model.row_upper_ = np.array(program.lower), np.array(program.upper)
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_ = np.array(program.starts)
    model.a_matrix_.index_ = np.array(program.columns)
    model.a_matrix_.value_ = np.array(program.factors)
    model.integrality_ = [
        highspy.HighsVarType.kInteger if integer else highspy.HighsVarType.kContinuous for integer in program.integer
    ]
    solver = highspy.Highs()
    for name, value in (("output_flag", False), ("threads", 1), ("random_seed", 0), ("mip_rel_gap", 1e-6)):
        solver.setOptionValue(name, value)
    solver.passModel(model)
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        raise PlanError(
            "no layout of the program agrees with the placements that are given",
            cause="an operation needs a tensor in a layout that the placements rule out",
            alternatives=["leave the placements to the planner"],
        )
    return np.array(solver.getSolution().col_value)
