"""Losses on ranges of classes and on some of the rows, and random masks on parts."""

import itertools

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from meshwright.parallel.program import capture_program
from meshwright.parallel.tensor import GroupCommunicator, Shards, choose_placements, localize
from meshwright.parallel.tensor._random import PartRandom
from meshwright.parallel.tensor._vocabulary import RangeCrossEntropy, RowMeanCrossEntropy, VocabularyEmbedding

REDUCTIONS = {0: "none", 1: "mean", 2: "sum"}


def loss_errors() -> list[tuple]:
    """Settings of the loss with which this worker's value or gradient is wrong."""
    communicator = GroupCommunicator(dist.group.WORLD)
    rank, size = communicator.coordinate, communicator.size
    generator = torch.Generator().manual_seed(0)
    whole = (30 * torch.randn(6, 4 * size, dtype=torch.float64, generator=generator)).requires_grad_()
    target = torch.randint(4 * size, (6,), generator=generator)
    target[2] = -100
    wrong = []
    for reduction, smoothing in itertools.product(REDUCTIONS, (0.0, 0.1)):
        expected = F.cross_entropy(whole, target, reduction=REDUCTIONS[reduction], label_smoothing=smoothing)
        slope = torch.arange(1.0, expected.numel() + 1, dtype=torch.float64).reshape(expected.shape)
        (gradient,) = torch.autograd.grad(expected, whole, slope)
        columns = slice(4 * rank, 4 * rank + 4)
        part = whole.detach()[:, columns].clone().requires_grad_()
        found = RangeCrossEntropy(communicator)(part, target, None, reduction, -100, smoothing)
        (found_gradient,) = torch.autograd.grad(found, part, slope)
        if not (torch.allclose(found, expected) and torch.allclose(found_gradient, gradient[:, columns])):
            wrong.append(("classes", reduction, smoothing))
    expected = F.cross_entropy(whole, target)
    rows = slice(6 // size * rank, 6 // size * (rank + 1))
    mean = RowMeanCrossEntropy(torch.ops.aten.cross_entropy_loss.default, communicator)
    found = communicator.all_reduce(mean(whole.detach()[rows], target[rows]))
    return wrong if torch.allclose(found, expected.detach()) else [*wrong, "rows"]


def embedding_errors() -> list[int | None]:
    """Padding rows with which the table's gradient or the rows looked up are wrong."""
    communicator = GroupCommunicator(dist.group.WORLD)
    rank, size = communicator.coordinate, communicator.size
    whole = torch.randn(4 * size, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    indices = torch.tensor([[0, 3, 4], [7, 5, 4]])
    wrong = []
    for padding in (None, 4, 0):
        expected = F.embedding(indices, whole, padding)
        (gradient,) = torch.autograd.grad(expected.square().sum(), whole)
        part = whole.detach()[4 * rank : 4 * rank + 4].clone().requires_grad_()
        rows = VocabularyEmbedding(communicator)(part, indices, -1 if padding is None else padding)
        found = communicator.all_reduce(rows.detach().clone())
        (found_gradient,) = torch.autograd.grad(rows, part, 2 * found)
        if not (torch.allclose(found, expected) and torch.allclose(found_gradient, gradient[4 * rank : 4 * rank + 4])):
            wrong.append(padding)
    return wrong


def test_vocabulary(workers):
    """Every reduction, smoothed or not, ignored targets, padding rows."""
    assert workers(2).run(loss_errors) == [[], []]
    assert workers(2).run(embedding_errors) == [[], []]


class Dropped(nn.Module):
    """Dropout where activations are whole, and between split layers."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 64), nn.Linear(64, 8)

    def forward(self, x):
        return F.dropout(self.down(F.dropout(F.gelu(self.up(x)), 0.5)) + x, 0.5)


def dropout_step() -> tuple[float, list, bool]:
    """How far the gradient is from the loss's slope, the whole result's mask, and whether a seed gives masks again."""
    torch.manual_seed(0)
    model, batch = Dropped().double(), torch.randn(4, 6, 8, dtype=torch.float64)
    outputs = []

    def loss(model, batch):
        outputs.append(model(batch))
        return outputs[-1].square().sum()

    program = capture_program(model, loss, batch)
    communicator = GroupCommunicator(dist.group.WORLD)
    scheme = choose_placements(program, degree=communicator.size)
    local = localize(program, scheme, communicator=communicator)
    assert sum(isinstance(node.target, PartRandom) for node in local.nodes) == 1
    Shards(program.parameters, scheme.placements, communicator).split()
    torch.manual_seed(1)
    value = local(batch)
    value.backward()
    torch.manual_seed(1)
    again = local(batch)
    directions = {name: torch.full_like(p, 0.3) for name, p in program.parameters.items()}
    split = {placement.parameter for placement in scheme.placements}
    slope = torch.zeros((), dtype=torch.float64)
    for name, parameter in program.parameters.items():
        share = 1 if name in split else communicator.size
        slope += (parameter.grad * directions[name]).sum() / share
    slope = communicator.all_reduce(slope)
    moved = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            for name, parameter in program.parameters.items():
                parameter.add_(directions[name], alpha=step)
            torch.manual_seed(1)
            moved.append(local(batch).item())
            for name, parameter in program.parameters.items():
                parameter.sub_(directions[name], alpha=step)
    measured = (moved[0] - moved[1]) / 2e-6
    return abs(float(slope) - measured) / abs(measured), float(value), bool(again == value)


def test_dropout(workers):
    """The gradient is that of the masks drawn; workers agree on the loss, and a seed gives the same masks again."""
    (error, value, again), (_, other, _) = workers(2).run(dropout_step)
    assert error < 1e-7
    assert value == pytest.approx(other, rel=1e-12)
    assert again


def part_masks() -> tuple[list, float]:
    """A mask on this worker's part, and what the default generator gives after it."""
    torch.manual_seed(5)
    function = PartRandom(torch.ops.aten.dropout.default, dist.get_rank())
    return (function(torch.ones(64), 0.5, True) > 0).tolist(), torch.rand(()).item()


def test_masks_of_parts_differ(workers):
    """Other masks on other workers; their default generators stay together."""
    (mask, after), (other, other_after) = workers(2).run(part_masks)
    assert mask != other
    assert after == other_after
