"""Writes in place are gone from a program, and it still computes the same."""

from typing import Any

import torch
import torch.nn.functional as F
from program_steps import assert_equal
from torch import Tensor, nn


class Writes(nn.Module):
    """Writes to values, to views of values, through shapes and pieces, and to a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.register_buffer("seen", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        middle, shaped = y[:, 2:5], y.view(2, 4, 8)
        middle.mul_(2)
        shaped[:, 0] += 1
        y.relu_()
        halves = torch.zeros(8, 8)
        one, other = halves.chunk(2, 1)
        one.add_(1)
        other.sub_(2)
        y = y + halves
        shifted = torch.zeros(8, 8)
        shifted[1:, :] = y[:-1]
        shifted[0] = 3
        sums = torch.zeros(8, 8)
        sums.masked_fill_(y > 0.1, 2.0)
        sums.index_add_(0, torch.tensor([0, 1]), y[:2].clone())
        y.transpose(0, 1)[0].copy_(y[0].clone())
        self.seen[2:] = y.detach().mean(0)[2:]
        noise = torch.empty(8, 8).bernoulli_(0.5).mul_(2)
        return self.linear(shaped.reshape(8, 8)) + middle.sum() + shifted + sums * noise


class Shifted(nn.Module):
    """Makes its decoder's inputs as T5 does, and ignores padding by a write to the labels."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 9)

    def forward(self, labels: Tensor) -> Tensor:
        inputs = labels.new_zeros(labels.shape)
        inputs[..., 1:] = labels[..., :-1].clone()
        inputs[..., 0] = 1
        targets = labels.clone()
        targets[labels == 0] = -100
        return F.cross_entropy(self.embedding(inputs).flatten(0, 1), targets.flatten())


def writes(program: Any) -> list[str]:
    return [str(node.target) for node in program.nodes if getattr(getattr(node.target, "_schema", 0), "is_mutable", 0)]


def test_writes_become_values_but_for_buffers() -> None:
    torch.manual_seed(0)
    program = assert_equal(Writes(), lambda model, batch: model(batch).square().mean(), torch.randn(8, 8))
    assert writes(program) == ["aten.copy_.default"]


def test_shifted_labels() -> None:
    torch.manual_seed(0)
    program = assert_equal(Shifted(), lambda model, batch: model(batch), torch.randint(9, (8, 5)))
    assert writes(program) == []
