"""Encodings: what they say of values computed by hand, how long messages are, and what they leave out."""

import pytest
import torch

from meshwright.cost import Compression
from meshwright.exchange.compression._blocks import (
    ByteBlocks,
    NibbleBlocks,
    _quantized,
    packed_bytes,
    packed_nibbles,
    unpacked_bytes,
    unpacked_nibbles,
)
from meshwright.exchange.compression._codec import Codec
from meshwright.exchange.compression._random import RUN, Drawn
from meshwright.exchange.compression._sign import Signs
from meshwright.exchange.compression._top import SPAN, Largest


def decoded(codec: Codec, values: torch.Tensor, *, draw: int = 1) -> torch.Tensor:
    into = torch.zeros_like(values)
    codec.decompress(codec.compress(values, draw=draw), into, weight=1.0, draw=draw)
    return into


def gradients(numel: int, *, seed: int = 0) -> torch.Tensor:
    """Normal values whose blocks differ by up to a thousand times, as gradients of layers do."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(numel, generator=generator) * torch.logspace(-6, -3, numel)


def test_a_block_becomes_whole_numbers_between_its_lowest_and_highest_value():
    """-1 to 254 in steps of 1 are all 256 numbers exactly."""
    values = torch.arange(-1.0, 255.0)
    assert torch.allclose(decoded(ByteBlocks(256), values), values, atol=1e-4)


@pytest.mark.parametrize(("codec", "levels"), [(ByteBlocks(512), 255), (NibbleBlocks(512), 15)])
def test_the_error_is_at_most_half_a_step_of_the_block(codec, levels):
    values = gradients(512 * 300)
    rows = values.view(-1, 512)
    step = (rows.amax(dim=1) - rows.amin(dim=1)) / levels
    error = (decoded(codec, values) - values).view(-1, 512).abs().amax(dim=1)
    # float16 scales, rounded by up to 1/2048, move the 15th step by as much
    assert (error / step).max() < (0.51 if levels == 255 else 0.53)


@pytest.mark.parametrize("levels", [255, 15])
def test_the_formula_says_what_torchs_kernel_says(levels):
    """What other devices than CPUs compute: the same numbers but for ties."""
    rows = torch.randn(40, 64, generator=torch.Generator().manual_seed(3))
    stored = torch.float32 if levels == 255 else torch.float16
    numbers, scale, low = _quantized(rows, levels=levels, stored=stored)
    pack, unpack = (packed_bytes, unpacked_bytes) if levels == 255 else (packed_nibbles, unpacked_nibbles)
    assert torch.allclose(numbers * scale.float() + low.float(), unpack(pack(rows)), atol=float(scale.max()) * 1.01)
    difference = (numbers * scale.float() + low.float() - unpack(pack(rows))).abs()
    assert (difference > 1e-3).float().mean() < 0.01


def test_signs_have_the_mean_absolute_value_of_their_block():
    """Blocks of 8: |1..8| have the mean 4.5, and eight times -2 is kept."""
    values = torch.tensor([1.0, -2, 3, -4, 5, -6, 7, -8] + [-2.0] * 8)
    expected = torch.tensor([4.5, -4.5] * 4 + [-2.0] * 8)
    assert torch.equal(decoded(Signs(8), values), expected)


def test_only_the_largest_are_sent():
    """5 of 100 values: the others count as zero."""
    values = torch.arange(100.0).roll(13) * torch.tensor([1.0, -1.0]).repeat(50)
    found = decoded(Largest(0.05, block=4), values)
    assert torch.equal(found, torch.where(values.abs() >= 95, values, 0.0))


def test_the_largest_are_found_across_spans():
    """More than one span of 65536; bfloat16 keeps 8 bits of each value."""
    values = gradients(SPAN * 2 + 512, seed=5)
    found = decoded(Largest(0.01, block=512), values)
    exact = values.abs().topk(-(-len(values) // 100)).indices
    sent = found.nonzero().view(-1)
    assert len(set(sent.tolist()) & set(exact.tolist())) > 0.98 * len(exact)
    assert torch.allclose(found[sent], values[sent], rtol=2**-8)


def test_what_is_drawn_is_unbiased():
    """Over all draws each run comes up equally often: the mean of what was sent, over the share, is the values."""
    values = torch.randn(RUN * 40, generator=torch.Generator().manual_seed(1)).bfloat16().float()
    codec = Drawn(0.25, block=RUN)
    draws = 4000
    mean = sum(decoded(codec, values, draw=draw) for draw in range(draws)) / draws
    # a run is drawn with probability 1/4: its mean is off by sqrt(3/draws) of itself, seldom by four times that
    assert ((mean * 4 - values).abs() < 4 * (3 / draws) ** 0.5 * values.abs() + 1e-6).all()


def test_a_draw_takes_no_run_twice():
    for draw in range(50):
        drawn = Drawn(0.5, block=RUN).drawn(30, draw=draw)
        assert len(set(drawn.tolist())) == 15


@pytest.mark.parametrize("method", ["int8", "int4", "sign", "top_k", "random_k"])
def test_messages_are_as_long_as_priced(method):
    choice = Compression(method=method)
    codec = {
        "int8": ByteBlocks(512),
        "int4": NibbleBlocks(512),
        "sign": Signs(512),
        "top_k": Largest(0.01, block=512),
        "random_k": Drawn(0.01, block=512),
    }[method]
    numel = 512 * 200
    assert abs(codec.compress(gradients(numel), draw=1).nbytes - choice.message(numel)) < 40


@pytest.mark.parametrize("method", ["int8", "int4", "sign", "top_k", "random_k"])
def test_more_is_said_after_refining(method):
    values = gradients(512 * 64)
    make = {
        "int8": lambda: ByteBlocks(512),
        "int4": lambda: NibbleBlocks(512),
        "sign": lambda: Signs(512),
        "top_k": lambda: Largest(0.01, block=512),
        "random_k": lambda: Drawn(0.01, block=512),
    }[method]
    coarse, fine = make(), make()
    while fine.refine():
        pass
    assert (decoded(fine, values) - values).norm() < (decoded(coarse, values) - values).norm()


@pytest.mark.parametrize("method", ["int8", "int4", "sign", "top_k", "random_k"])
def test_zeros_stay_zeros(method):
    codec = {
        "int8": ByteBlocks(512),
        "int4": NibbleBlocks(512),
        "sign": Signs(512),
        "top_k": Largest(0.01, block=512),
        "random_k": Drawn(0.01, block=512),
    }[method]
    assert torch.equal(decoded(codec, torch.zeros(1024)), torch.zeros(1024))


def test_values_too_small_for_a_factor_count_as_nothing():
    found = decoded(ByteBlocks(64), torch.full((64,), 1e-42))
    assert found.isfinite().all()
    assert found.abs().max() < 1e-7
