"""Cuts of models without repeated blocks: where they are, what crosses, and that the program can be cut there."""

import torch
from torch import nn

from meshwright.cost import Pricer
from meshwright.graph import Graph, derived_splits, in_sections
from meshwright.graph.capture import capture
from meshwright.parallel.pipeline import possible_cuts
from meshwright.parallel.program import capture_program
from meshwright.plan import Goal, Pins, plan_outright, shortlist
from planning_builders import machine


class Chain(nn.Module):
    """Modules that are all different, joined by functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 32), nn.Linear(32, 64)
        self.recurrent, self.last = nn.LSTM(64, 16, batch_first=True), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.second(torch.relu(self.first(x))))
        return self.last(self.recurrent(hidden)[0][:, -1])


class Reused(nn.Module):
    """The first module runs again at the end, so that no stage can begin between."""

    def __init__(self) -> None:
        super().__init__()
        self.ends, self.middle, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.ends(torch.relu(self.middle(self.ends(x))))[:, -1])


def _loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def _batch(size: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(size, 5, 8), torch.zeros(size, dtype=torch.long)


def _graph(model: nn.Module) -> Graph:
    return capture(model, torch.optim.AdamW(model.parameters()), _loss, _batch())


def test_a_stage_may_begin_with_every_module_but_the_first() -> None:
    """Of 5 positions of float32: 32 numbers cross before the second module, 64 before the third, 16 of the last one."""
    cuts = derived_splits(_graph(Chain())).cuts
    assert [(cut.path, cut.size.per_example) for cut in cuts] == [
        ("second", 5 * 32 * 4),
        ("recurrent", 5 * 64 * 4),
        ("last", 16 * 4),
    ]


def test_the_program_can_be_cut_there() -> None:
    model = Chain()
    points = {point.path: point.per_example for point in possible_cuts(capture_program(model, _loss, _batch()))}
    for cut in derived_splits(_graph(model)).cuts:
        assert points[cut.path] == cut.size.per_example


def test_no_stage_begins_inside_the_span_of_a_module_that_runs_twice() -> None:
    assert [cut.path for cut in derived_splits(_graph(Reused())).cuts] == ["head"]


def test_sections_have_all_the_work_and_all_the_parameters() -> None:
    graph = _graph(Chain())
    parts = in_sections(graph)
    assert [block.paths for block in parts.blocks] == [("first",), ("second",), ("recurrent",), ("last",)]
    assert {item.paths[0].rpartition(".")[0] for item in parts.parameters} == {"first", "second", "recurrent", "last"}
    assert [item.name for item in parts.operations] == [item.name for item in graph.operations]
    tanh = next(item for item in parts.operations if item.name == "aten.tanh")
    assert tanh.module == "second"
    assert parts.operations[-1].module == "first"


def test_a_pipeline_is_offered_and_can_be_pinned() -> None:
    graph, cluster = _graph(Chain()), machine()
    told = [item.strategy for item in shortlist(graph, cluster, Goal()).others]
    assert any(strategy.mesh.pp == 2 for strategy in told)
    plan = plan_outright(graph, cluster, Goal(pins=Pins(pipeline=2)))
    assert plan.strategy.pipeline is not None
    assert plan.strategy.pipeline.cuts[0] in {"second", "recurrent", "last"}
    assert plan.strategy.recompute == ()
    assert [stage.worker for stage in plan.stages] == [0, 1]
    assert Pricer(graph, cluster).predict(plan.strategy).time.step > 0
