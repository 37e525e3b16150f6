"""A captured program computes what the model computes, on the model's own tensors."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from program_steps import assert_equal
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from meshwright.errors import ProgramError
from meshwright.parallel.program import capture_program


class Everything(nn.Module):
    """Batch statistics, counters, a running mean, constants, in-place writes, no_grad, checkpoints, tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 8)
        self.head = nn.Linear(8, 8, bias=False)
        self.head.weight = self.linear.weight
        self.frozen = nn.Parameter(torch.ones(8), requires_grad=False)
        self.unused = nn.Linear(2, 2)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(8))
        self.offset = torch.arange(8.0)

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        x = F.relu(self.norm(self.convolution(images)), inplace=True).mean((2, 3))
        x = x * self.frozen + self.offset + torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8]) + torch.arange(8)
        x[:, 0] = 0.5
        with torch.no_grad():
            shift = self.linear(x)
            self.mean.mul_(0.9).add_(x.mean(0))
        x = checkpoint(self.linear, x + shift, use_reentrant=True)
        return self.head(x + x.detach())


def everything_loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch["images"]), batch["labels"])


def images(examples: int = 8) -> dict[str, Any]:
    return {
        "images": torch.randn(examples, 3, 4, 4),
        "labels": torch.randint(8, (examples,)),
        "source": "somewhere",
    }


def test_program_with_everything_equals_its_model() -> None:
    torch.manual_seed(0)
    model = Everything()
    batch = images()
    program = assert_equal(model, everything_loss, batch)
    assert program.output == "mean"
    assert [(entry.path, entry.has_examples) for entry in program.inputs] == [("images", True), ("labels", True)]
    assert all(program.parameters[name] is dict(model.named_parameters())[name] for name in program.parameters)
    assert program.tied == {"linear.weight": ("head.weight",)}
    assert "unused.weight" not in program.parameters
    assert program.buffers["mean"] is model.mean


def test_nodes_say_their_module_and_call() -> None:
    program = capture_program(Everything(), everything_loss, images())
    linears = [(node.meta["module"], node.meta["call"]) for node in program.nodes if "linear" in str(node.target)]
    assert linears[-3:] == [("linear", 0), ("linear", 1), ("head", 0)]
    assert [node.meta["module"] for node in program.nodes if "cross_entropy" in str(node.target)] == [None]


def test_dropout_draws_anew_in_every_call_and_is_marked() -> None:
    model = nn.Sequential(nn.Linear(4, 32), nn.Dropout(0.5), nn.Dropout(0.0))

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).square().mean()

    batch = torch.randn(8, 4)
    program = assert_equal(model, loss, batch)
    assert not torch.equal(program(batch), program(batch))
    assert [str(node.target) for node in program.nodes if node.meta["random"]] == ["aten.dropout.default"]
    quiet = capture_program(model, loss, batch, training=False)
    assert not [node for node in quiet.nodes if node.meta["random"]]
    assert model.training


@dataclass
class Pair:
    inputs: Tensor
    targets: Tensor


def test_a_dataclass_with_total_and_weight() -> None:
    model = nn.Linear(4, 3)
    batch = Pair(inputs=torch.randn(8, 4), targets=torch.tensor([0, 1, 2, -100, 0, 1, 2, -100]))

    def loss(model: nn.Module, batch: Pair) -> tuple[Tensor, Tensor]:
        total = F.cross_entropy(model(batch.inputs), batch.targets, reduction="sum")
        return total, (batch.targets != -100).sum()

    program = assert_equal(model, loss, batch)
    assert program.output == "total and weight"
    assert int(program(batch)[1]) == 6


def test_a_name_that_graphs_use_is_declined() -> None:
    model = nn.Module()
    model.graph = nn.Linear(4, 4)
    with pytest.raises(ProgramError, match="attribute 'graph' has a name"):
        capture_program(model, lambda model, batch: model.graph(batch).mean(), torch.randn(8, 4))


class Reading(nn.Module):
    """Reads something of a tensor that a graph cannot say."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        match self.kind:
            case "number":
                return y / y.abs().max().item()
            case "size":
                return y[y[:, 0] > 0]
            case _:
                return torch.vmap(torch.sin)(y)


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("number", "aten.item.default gives a number or a size"),
        ("size", "aten.index.Tensor gives a number or a size"),
        ("vmap", "a program within the program"),
    ],
)
def test_what_nobody_can_split_is_declined_with_its_line(kind: str, cause: str) -> None:
    with pytest.raises(ProgramError, match=r"test_parallel_program_capture\.py:\d+") as raised:
        capture_program(Reading(kind), lambda model, batch: model(batch).mean(), torch.randn(8, 4))
    assert cause in raised.value.cause


class DataDependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y * 2 if y.sum() > 0 else y


def test_control_flow_on_values_is_declined_with_its_line() -> None:
    with pytest.raises(ProgramError, match=r"test_parallel_program_capture\.py:\d+: 'return y \* 2 if") as raised:
        capture_program(DataDependent(), lambda model, batch: model(batch).mean(), torch.randn(8, 4))
    assert "depends on the values in the batch" in raised.value.cause
