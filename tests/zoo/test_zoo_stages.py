"""Models cut at every point at which a stage may begin: the stages together compute the model's gradients.

One worker has all stages and halves every backward, so that each activation, and each weight's gradient, crosses on
its own; what several workers do is tested on smaller models.
"""

import pytest
import torch

from meshwright.cost import Pipeline
from meshwright.graph import derived_splits
from meshwright.graph.capture import capture
from meshwright.parallel.pipeline import Pipelined, cut, possible_cuts
from meshwright.parallel.pipeline._cut_points import places_of
from meshwright.parallel.pipeline._flow import Flow
from meshwright.parallel.program import capture_program
from zoo import zoo_model

LEAST_CUTS = {
    "gpt2": 15, "gemma2": 24, "deberta-v2": 25, "t5": 48, "whisper": 49, "swin": 42, "resnet": 23, "mobilenet-v2": 155,
    "llava": 41, "mamba2": 12, "mixtral": 20, "lstm": 2, "unet": 22, "dlrm": 9, "graph-network": 5,
}  # fmt: skip


@pytest.mark.parametrize("name", LEAST_CUTS)
@pytest.mark.filterwarnings("ignore")
def test_as_many_stages_as_there_are_points(name: str) -> None:
    torch.set_num_threads(1)
    model, loss, batch = zoo_model(name).make()
    program = capture_program(model, loss, batch)
    program(batch).backward()
    expected = _gradients(model)
    points = possible_cuts(program)
    assert len(points) >= LEAST_CUTS[name]
    pipeline = Pipeline(schedule="zero_bubble", cuts=tuple(point.path for point in points))
    job = Pipelined(lambda _: program, batch, model=model, pipeline=pipeline, group=None)
    model.zero_grad()
    job.compute([batch], lambda output, _: output)
    found = _gradients(model)
    assert found.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    assert max(float((found[key] - expected[key]).abs().max()) for key in found) < 1e-6 * scale


@pytest.mark.parametrize(("name", "least"), [("gpt2", 3), ("bart", 5), ("clip", 5), ("mobilenet-v2", 10)])
@pytest.mark.filterwarnings("ignore")
def test_the_planners_cuts_are_legal_and_what_crosses_is_not_underrated(name: str, least: int) -> None:
    model, loss, batch = zoo_model(name).make()
    graph = capture(model, torch.optim.AdamW(model.parameters()), loss, batch)
    planned = derived_splits(graph).cuts
    assert len(planned) >= least
    program = capture_program(model, loss, batch)
    cut(program, [point.path for point in planned])
    sizes = {point.place: point.as_data.size.at(program.batch_size) for point in possible_cuts(program)}
    for point in planned:
        (place,) = places_of(Flow(program), (point.path,))
        assert point.size.at(program.batch_size) > 0.95 * sizes[place]


def _gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
