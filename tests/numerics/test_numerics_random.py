"""Masks of SFC64: the right share of ones, independent, reproducible by torch's seed, and gone after the context."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from meshwright.numerics import random_applied

COUNT = 2**20


def drawn(p: float, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    with random_applied("sfc64"):
        return torch.empty(COUNT).bernoulli_(p)


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_share_of_ones_is_p_within_four_standard_deviations(p):
    mask = drawn(p)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert abs(mask.mean().item() - p) < 4 * (p * (1 - p) / COUNT) ** 0.5


@pytest.mark.parametrize(("p", "value"), [(0.0, 0.0), (1.0, 1.0)])
def test_certain_outcomes(p, value):
    assert (drawn(p) == value).all()


def test_neighbours_are_uncorrelated():
    centred = drawn(0.5) - 0.5
    for distance in (1, 2, 4, 64):
        correlation = (centred[:-distance] * centred[distance:]).mean().item() * 4
        assert abs(correlation) < 4 / COUNT**0.5


def test_same_seed_same_mask_and_successive_masks_differ():
    assert torch.equal(drawn(0.3, seed=5), drawn(0.3, seed=5))
    torch.manual_seed(5)
    with random_applied("sfc64"):
        first, second = torch.empty(COUNT).bernoulli_(0.3), torch.empty(COUNT).bernoulli_(0.3)
    assert not torch.equal(first, second)


def test_passed_generator_is_the_source():
    with random_applied("sfc64"):
        masks = [torch.empty(COUNT).bernoulli_(0.3, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*masks)


@pytest.mark.parametrize("dtype", [torch.bool, torch.bfloat16, torch.float64, torch.int32])
def test_every_type_and_layout_of_mask(dtype):
    torch.manual_seed(0)
    with random_applied("sfc64"):
        mask = torch.zeros(512, 129, dtype=dtype).t()[:, ::2].bernoulli_(0.25)
    assert abs(mask.double().mean().item() - 0.25) < 4 * (0.1875 / mask.numel()) ** 0.5


def test_small_masks_are_torchs_own():
    torch.manual_seed(0)
    expected = torch.empty(100).bernoulli_(0.5)
    torch.manual_seed(0)
    with random_applied("sfc64"):
        assert torch.equal(torch.empty(100).bernoulli_(0.5), expected)


def test_torchs_own_masks_are_back_after_the_context():
    torch.manual_seed(0)
    expected = torch.empty(COUNT).bernoulli_(0.5)
    assert not torch.equal(drawn(0.5), expected)
    torch.manual_seed(0)
    assert torch.equal(torch.empty(COUNT).bernoulli_(0.5), expected)


def test_dropout_scales_and_its_gradient_has_the_same_mask():
    x = torch.ones(512, 512, requires_grad=True)
    with random_applied("sfc64"):
        y = F.dropout(x, 0.2)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert abs(y.mean().item() - 1) < 0.01


def test_recomputed_activations_have_the_same_mask():
    x = torch.ones(512, 512, requires_grad=True)
    with random_applied("sfc64"):
        y = checkpoint(lambda t: F.dropout(t, 0.5) * t, x, use_reentrant=False)
        y.sum().backward()
    assert torch.equal(x.grad, 2 * y.detach())
