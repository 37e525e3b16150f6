"""Steps that cannot be captured whole: what is done instead, and what is said."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captured_models import Job, mlp
from torch import Tensor, nn

from meshwright.errors import BatchError, CaptureError, LossError
from meshwright.graph import Graph
from meshwright.graph.capture import capture


def captured(job: Job) -> Graph:
    return capture(job.model, torch.optim.SGD(job.model.parameters()), job.loss, job.batch)


class Branching(nn.Module):
    """Does more where a value is large."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(10, 4)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if x.abs().max() > 0.5:
            x = x / 2
        return self.linear(x)


def test_a_branch_on_values_is_captured_on_real_examples_and_named() -> None:
    model = Branching()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph = captured(Job(model=model, loss=mlp().loss, batch=mlp().batch))
    line = 1 + next(
        number for number, text in enumerate(Path(__file__).read_text().splitlines()) if "x.abs().max() >" in text
    )
    assert len(graph.gaps) == 1
    assert re.fullmatch(
        rf"\S*test_graph_gaps\.py:{line}: 'if x\.abs\(\)\.max\(\) > 0\.5:' \(reads the value of a tensor\); "
        r"captured by running every module on 4 and 2 real examples instead",
        graph.gaps[0],
    )
    assert graph.traits == ("data_dependent",)
    assert graph.batch_size == 8
    product = next(op for op in graph.operations if op.name == "aten.addmm")
    assert (product.flops.at(8), product.module) == (2 * 8 * 10 * 4, "linear")
    assert "aten.div" in {op.name for op in graph.operations}
    assert model.calls == 0
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert model.linear.weight.grad is None


def test_a_result_whose_size_depends_on_values() -> None:
    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        chosen = torch.nonzero(batch[1] >= 0)[:, 0]
        return F.cross_entropy(model(batch[0][chosen]), batch[1][chosen])

    graph = captured(Job(model=mlp().model, loss=loss, batch=mlp().batch))
    assert "(aten.nonzero, whose result has a size that depends on values)" in graph.gaps[0]
    assert graph.traits == ("data_dependent",)


def test_numpy_in_the_loss() -> None:
    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        labels = torch.from_numpy(batch[1].numpy().copy())
        return F.cross_entropy(model(batch[0]), labels)

    graph = captured(Job(model=mlp().model, loss=loss, batch=mlp().batch))
    assert "batch[1].numpy()" in graph.gaps[0]


def test_operations_that_differ_between_batch_sizes_are_told() -> None:
    class Uneven(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(10, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x if len(x) > 4 else x * 2)

    graph = captured(Job(model=Uneven(), loss=mlp().loss, batch=mlp().batch))
    assert re.fullmatch(
        r"with 8 and 4 examples the step runs \d+ and \d+ operations, not the same ones; "
        r"all quantities are taken as proportional to the number of examples",
        graph.gaps[0],
    )
    product = next(op for op in graph.operations if op.name == "aten.addmm")
    assert product.flops.at(8) == 2 * 8 * 10 * 4


def test_values_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = Branching()
    with pytest.raises(CaptureError) as caught:
        captured(Job(model=model, loss=mlp().loss, batch=mlp().batch))
    assert caught.value.fact.startswith("Branching cannot be captured without values: ")
    assert caught.value.cause == "the model is on the meta device, so it has no values to run with"


def test_a_step_that_fails_by_itself_names_its_line() -> None:
    job = mlp()
    with pytest.raises(CaptureError) as caught:
        captured(Job(model=nn.Linear(7, 4), loss=job.loss, batch=job.batch))
    assert caught.value.fact.startswith("the step fails on a batch of 4 examples: RuntimeError: mat1 and mat2 shapes")
    assert "captured_models.py" in caught.value.cause


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="none"),
            "the loss has shape [8], not that of a scalar\n  because: a step minimizes one number",
        ),
        (lambda m, b: {"loss": m(b[0]).mean()}, "the loss is of type dict, not a tensor"),
        (lambda m, b: m(b[0]).mean().detach(), "the loss has no gradient\n  because: it depends on no trainable"),
        (lambda m, b: (m(b[0]).sum(), 8, 1), "the loss is a tuple of 3; a scalar or (total, weight) is needed"),
    ],
)
def test_losses_that_are_none(loss: Any, message: str) -> None:
    job = mlp()
    with pytest.raises(LossError) as caught:
        captured(Job(model=job.model, loss=loss, batch=job.batch))
    assert str(caught.value).startswith(message)


def test_a_loss_of_another_model() -> None:
    job = mlp()
    with pytest.raises(CaptureError, match=r"^no parameter of Sequential gets a gradient from the loss\n"):
        captured(Job(model=job.model, loss=lambda _m, b: job.loss(job.model, b), batch=job.batch))
    assert all(parameter.grad is None for parameter in job.model.parameters())


def test_an_empty_batch() -> None:
    job = mlp()
    with pytest.raises(BatchError, match=r"^a batch of size 0"):
        captured(Job(model=job.model, loss=job.loss, batch=(torch.zeros(0, 10), torch.zeros(0, dtype=torch.long))))


def test_parameters_without_shapes() -> None:
    job = mlp()
    with pytest.raises(CaptureError, match=r"^2 parameters of Sequential have no shape yet, 0\.weight first\n"):
        capture(nn.Sequential(nn.LazyLinear(4)), torch.optim.SGD(job.model.parameters()), job.loss, job.batch)
