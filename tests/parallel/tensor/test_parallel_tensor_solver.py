"""The solver finds what trying everything finds, and what others have written down for known models."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from meshwright.cost import Batch, Mesh, Strategy, Worker
from meshwright.errors import PlanError
from meshwright.parallel.hybrid import completed
from meshwright.parallel.program import capture_program
from meshwright.parallel.tensor import Rates, Split, choose_placements
from meshwright.parallel.tensor._problem import problem_of, written_operands
from meshwright.parallel.tensor._solver import solution_time, solve
from zoo import zoo_model


class Wired(nn.Module):
    """Two layers on the same input, joined in a drawn way."""

    def __init__(self, join: str, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(4, width, bias=False)
        self.second = nn.Linear(width if join == "chain" else 4, width, bias=False)
        self.join = join

    def forward(self, x):
        first = self.first(x)
        if self.join == "chain":
            return self.second(first)
        return first * self.second(x) if self.join == "product" else first + self.second(x)


def problem_for(model, batch):
    """The choices of a model's step."""
    program = capture_program(model, lambda model, batch: model(batch).square().sum(), batch)
    parameters = [n for n in program.nodes if n.op == "get_attr" and str(n.target) in program.parameters]
    seeds = {node: (Split(0), Split(1)) for node in parameters}
    return problem_of(program.graph_module, 2, pinned={}, seeds=seeds)


def cheapest(problem, rates):
    """The least time of all combinations of choices that the solver may take."""
    assert not any(written_operands(operation) for operation in problem.operations.values())
    nodes = list(problem.choices)
    times = []
    for picked in itertools.product(*(problem.choices[node] for node in nodes)):
        choices = dict(zip(nodes, picked, strict=True))
        if all(
            operand.op != "get_attr" or layout == choices[operand].results[0] or not _split(choices[operand])
            for node, operation in problem.operations.items()
            for operand, layout in zip(operation.operands, choices[node].operands, strict=True)
        ):
            times.append(solution_time(problem, choices, rates))
    return min(times)


def _split(choice):
    return isinstance(choice.results[0], Split)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["chain", "sum", "product"]),
    st.floats(5, 12),
    st.floats(-9, -4),
    st.floats(6, 11),
)
def test_exact(join, bandwidth, latency, compute):
    """Against every combination of choices, at rates drawn over orders of magnitude."""
    speed = 10**compute
    rates = Rates(bandwidth=10**bandwidth, latency=10**latency, compute=speed, memory=speed, holding=12 / speed)
    problem = problem_for(Wired(join, 2), torch.ones(2, 4))
    found = solve(problem, rates)
    assert found.time == pytest.approx(cheapest(problem, rates), rel=1e-6)
    assert found.time == pytest.approx(solution_time(problem, found.choices, rates), rel=1e-9)


# One NVIDIA H100 server: data sheet's NVLink and HBM rates, a third of the matrix peak, a small collective's time.
SERVER = Rates(bandwidth=3e11, latency=1e-5, compute=3e14, memory=3e12, holding=4e-12)


def test_llama_as_transformers_lays_it_out():
    """Columns and rows of `base_model_tp_plan`, found from the graph alone at the sizes it was written for."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=512, intermediate_size=2048, num_attention_heads=16, num_key_value_heads=4, num_hidden_layers=2,
        vocab_size=2048,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    ids = torch.zeros(2, 256, dtype=torch.long)
    program = capture_program(
        model, lambda model, batch: F.cross_entropy(model(batch).logits.flatten(0, 1), batch.flatten()), ids
    )
    scheme = choose_placements(program, degree=4, rates=SERVER)
    found = {one.parameter: one.dim for one in scheme.placements}
    columns = {"colwise": 0, "rowwise": 1}
    expected = {
        f"model.layers.{number}.{name.removeprefix('layers.*.')}.weight": columns[style]
        for name, style in config.base_model_tp_plan.items()
        for number in range(2)
        if style in columns and name.startswith("layers")
    }
    assert {name: dim for name, dim in found.items() if ".layers." in name} == expected
    of_blocks = [one for one in scheme.exchanges if one.name == "all_reduce" and ".layers." in one.module]
    assert sum(one.count for one in of_blocks) == 2 * 2 * 2


def test_same_scheme_again():
    """Deterministic, and given its own placements it decides the rest as well."""
    model, loss, batch = zoo_model("gpt2").make()
    program = capture_program(model, loss, batch)
    first = choose_placements(program, degree=2)
    assert choose_placements(program, degree=2) == first
    again = choose_placements(program, degree=2, placements=first.placements)
    assert again.placements == first.placements
    assert again.time == pytest.approx(first.time)


def test_equal_blocks_get_equal_placements():
    """What holds for the first block holds for the second."""
    model, loss, batch = zoo_model("bart").make()
    scheme = choose_placements(capture_program(model, loss, batch), degree=2)
    of_block = [
        {
            (one.parameter.split(f"layers.{number}.")[1], one.dim)
            for one in scheme.placements
            if f"decoder.layers.{number}." in one.parameter
        }
        for number in range(2)
    ]
    assert of_block[0] == of_block[1] != set()


def test_nothing_to_split():
    """Seven workers cannot divide widths that are powers of two; the scheme says so."""
    model, loss, batch = zoo_model("vit").make()
    scheme = choose_placements(capture_program(model, loss, batch), degree=7)
    assert scheme.placements == ()
    assert scheme.notes[0] == "nothing to split over 7 workers: every one would do everything"


def test_placement_that_does_not_divide():
    """Given placements are checked before anything runs."""
    model, loss, batch = zoo_model("gpt2").make()
    program = capture_program(model, loss, batch)
    placements = choose_placements(program, degree=2).placements
    with pytest.raises(PlanError, match=r"cannot be split by dim \d into \d × 3 equal parts"):
        choose_placements(program, degree=3, placements=placements)


class Sorted(nn.Module):
    """Between two layers something that needs all of a row."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16, bias=False), nn.Linear(16, 8, bias=False)

    def forward(self, x):
        return self.down(self.up(x).sort(dim=-1).values)


def test_what_no_rule_divides_is_gathered_and_said():
    """The layer before it stays split; what is done about it goes into the plan."""
    program = capture_program(Sorted(), lambda model, batch: model(batch).square().mean(), torch.randn(4, 8))
    workers = tuple(Worker(rank=rank, host="a", device="cpu", threads=1) for rank in range(2))
    found = completed(Strategy(workers=workers, mesh=Mesh(tp=2), batch=Batch(size=4, shares=(4,))), program)
    assert {one.parameter for one in found.strategy.placements} == {"up.weight", "down.weight"}
    assert found.gathered == (
        "aten.sort has no rule for parts along that dim: its operands are gathered and it is done whole",
    )
    assert completed(found.strategy, program).gathered == found.gathered
