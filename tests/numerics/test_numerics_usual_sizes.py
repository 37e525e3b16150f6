"""Which part of a product oneDNN gets where sizes change, and that a cut product is the product."""

import pytest
import torch

from meshwright.numerics import matrix_library_applied
from meshwright.numerics._usual_sizes import UsualSizes


def test_few_sizes_are_taken_as_they_are_and_many_are_cut():
    sizes = UsualSizes()
    assert [sizes.part(rows, 192, 384) for rows in range(1001, 1009)] == [(rows, 192) for rows in range(1001, 1009)]
    # 1000 is 0b1111101000, of which 0b1111 stays
    assert sizes.part(1000, 192, 384) == (960, 192)
    assert sizes.part(1001, 192, 384) == (1001, 192)
    assert sizes.part(1025, 192, 384) == (1024, 192)
    assert sizes.part(1000, 192, 100) == (1000, 192)


def test_sums_over_many_lengths_are_cut_too():
    sizes = UsualSizes()
    for length in range(1001, 1009):
        sizes.part(384, length, 192)
    assert sizes.part(384, 1300, 192) == (384, 1280)


def test_shapes_that_vary_in_every_way_end_with_torchs_own_library():
    sizes = UsualSizes()
    parts = [sizes.part(size, size, size) for size in range(200, 600)]
    assert parts[:256] == [(size, size) for size in range(200, 456)]
    assert set(parts[256:]) == {None}


@pytest.mark.parametrize("bias", [None, torch.arange(64.0)])
def test_products_of_many_sizes_are_exact(bias):
    torch.manual_seed(0)
    weight = torch.randn(64, 96)
    with matrix_library_applied("onednn"):
        for rows in range(400, 424):
            given, gradient = torch.randn(rows, 96), torch.randn(rows, 64)
            output = torch.nn.functional.linear(given, weight, bias)
            exact = torch.nn.functional.linear(given.double(), weight.double(), None if bias is None else bias.double())
            assert output.is_contiguous()
            torch.testing.assert_close(output.double(), exact, rtol=1e-5, atol=1e-4)
            summed = gradient.t() @ given
            torch.testing.assert_close(summed.double(), gradient.double().t() @ given.double(), rtol=1e-5, atol=1e-3)
