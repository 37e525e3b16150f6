"""Where programs can be cut, what crosses, and what stages are made of."""

import operator

import pytest
import torch
from pipeline_jobs import Programs, micro_batches, model_of
from pipeline_models import CASES
from torch import nn

from meshwright.errors import PlanError
from meshwright.parallel.pipeline import cut, possible_cuts
from meshwright.parallel.program import capture_program


def program_of(name, size=4):
    case = CASES[name]
    model = model_of(case)
    return Programs(model, case)(micro_batches(case, [size], 0)[0])


def test_cuts_are_in_order_and_each_has_a_name_of_its_own():
    points = possible_cuts(program_of("decoder"))
    assert [point.place for point in points] == sorted({point.place for point in points})
    paths = [point.path for point in points]
    assert len(set(paths)) == len(paths)
    assert {"layers.0", "layers.1", "layers.2.up", "layers.3", "norm"} <= set(paths)
    assert "layers.1.norm" not in paths, "it begins where layers.1 does"
    assert not any("dropout" in path for path in paths), "a stage begins with parameters"


def test_bytes_that_cross():
    """Between blocks of width 8 and length 6 in float64 cross 6·8·8 B; the mask of the batch is computed anew."""
    points = {point.path: point for point in possible_cuts(program_of("decoder"))}
    assert (points["layers.1"].per_example, points["layers.1"].fixed, len(points["layers.1"].values)) == (384.0, 0, 1)
    assert points["layers.1.up"].per_example == 768.0, "the residual and the norm's output"
    assert points["layers.1"].as_data.size.at(10) == 3840.0


def test_skips_cross_every_cut_between():
    points = {point.path: point for point in possible_cuts(program_of("unet"))}
    pixels = 8
    first, half = 4 * 16 * pixels, 4 * 4 * pixels
    indices = 4 * 4 * 8
    assert points["second"].per_example == first + half + indices
    second = 6 * 4 * pixels
    assert points["bottom"].per_example == first + indices + second


def test_what_crosses_goes_from_reader_to_reader():
    stages = cut(program_of("translation"), ("encoder.1", "decoder.0", "decoder.1", "decoder.2"))
    memory = max((value for stage in stages for value in stage.makes), key=lambda value: len(value.route))
    assert memory.route == (1, 2, 3, 4)
    assert (memory.before(3), memory.after(3), memory.after(4)) == (2, 4, None)
    assert [value.route for value in stages[0].makes] == [(0, 1)]


def test_integers_cross_without_a_gradient():
    stages = cut(program_of("unet"), ("second", "bottom", "up", "last"))
    made = {value.dtype: value for value in stages[0].makes}
    assert not made[torch.int64].differentiable
    assert made[torch.int64].route == (0, 3)
    assert made[torch.float64].differentiable


def test_every_operation_that_has_parameters_is_on_one_stage():
    program = program_of("decoder")
    stages = cut(program, ("layers.1", "layers.2", "norm"))
    whole = [node for node in program.nodes if node.op == "call_function" and "linear" in str(node.target)]
    parts = [
        node
        for stage in stages
        for node in stage.program.nodes
        if node.op == "call_function" and "linear" in str(node.target)
    ]
    assert [node.name for node in parts] == [node.name for node in whole]
    assert [sorted(stage.program.parameters)[0] for stage in stages] == [
        "embedding.weight", "layers.1.attention.bias", "layers.2.attention.bias", "embedding.weight"
    ]  # fmt: skip
    assert stages[0].program.parameters["embedding.weight"] is stages[3].program.parameters["embedding.weight"]


def test_a_module_called_twice_begins_two_stages():
    stages = cut(program_of("normalized"), ("again", "again@1"))
    assert [sorted(stage.program.parameters) for stage in stages[1:]] == [
        ["again.0.bias", "again.0.weight"],
        ["again.0.bias", "again.0.weight", "last.bias", "last.weight"],
    ]


class Counting(nn.Module):
    """A buffer that is changed behind the first and the second layer, and read behind the third."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.third = nn.Linear(3, 3)
        self.last = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        x = self.first(x)
        self.calls += x.detach().mean()
        x = self.second(x)
        self.calls.mul_(0.5)
        return self.last(self.third(x) + self.calls)


def test_a_buffer_that_changes_is_on_one_stage():
    program = capture_program(Counting(), lambda model, batch: model(batch).sum(), torch.ones(2, 3))
    assert [point.path for point in possible_cuts(program)] == ["last"]
    with pytest.raises(PlanError, match="share a tensor that is changed in place"):
        cut(program, ("second",))


def test_names_that_are_no_cuts():
    program = program_of("decoder")
    with pytest.raises(PlanError, match=r"no stage can begin at 'layers.9'(?s:.)*did you mean"):
        cut(program, ("layers.9",))
    with pytest.raises(PlanError, match="it is the model's first operation"):
        cut(program, ("embedding",))
    with pytest.raises(PlanError, match=r"it runs before the stage that begins at 'layers\.2', or with it"):
        cut(program, ("layers.2", "layers.1"))


def test_stages_hold_no_items_of_tuples_made_elsewhere():
    stages = cut(program_of("decoder"), ("layers.0.output", "layers.2"))
    for stage in stages:
        own = set(stage.program.nodes)
        items = [node for node in own if node.target is operator.getitem]
        assert all(node.args[0] in own and node.args[0].op == "call_function" for node in items)
