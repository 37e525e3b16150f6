"""Sums of compressed gradients on several workers: nothing is lost, everybody has the same, exact where it can be."""

import pytest
import torch
import torch.distributed as dist

from meshwright.cost import Compression
from meshwright.exchange import Wire
from meshwright.exchange.compression import EncodedSum, make_method

CPU = torch.device("cpu")
SHAPES = ((24, 40), (40,), (7, 3, 5), (64, 32))
OFFSETS = (0, 960, 1008, 1120)
NUMEL = 3168
STEPS = 12


def _gradients(rank: int, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * rank + step)
    flat = torch.zeros(NUMEL)
    for shape, start in zip(SHAPES, OFFSETS, strict=True):
        numel = torch.Size(shape).numel()
        flat[start : start + numel] = torch.randn(numel, generator=generator)
    return flat


def _method(choice, size):
    return make_method(choice, shapes=SHAPES, offsets=OFFSETS, numel=NUMEL, device=CPU, size=size)


def _conserved(choice: Compression) -> tuple[float, float, int]:
    """How much of all gradients is neither in the sums nor carried; how far workers differ; bytes sent."""
    wire = Wire()
    method = _method(choice, wire.size)
    given = torch.zeros(NUMEL)
    for step in range(STEPS):
        values = _gradients(wire.rank, step)
        method.sum(values, wire, draw=step)
        given += values
    kept = method.elements()
    carried = kept["carried"].clone()
    if "average" in kept:
        # a = m a + (1 - m) g: all gradients are in the sum of the averages, but for m / (1 - m) of the last
        carried += kept["average"] * choice.momentum / (1 - choice.momentum)
    dist.all_reduce(carried)
    everything = sum(_gradients(rank, step) for rank in range(wire.size) for step in range(STEPS))
    others = [torch.zeros(NUMEL) for _ in range(wire.size)]
    dist.all_gather(others, given)
    apart = max((other - given).abs().max().item() for other in others)
    wire.close()
    return ((given + carried - everything).norm() / everything.norm()).item(), apart, wire.sent


CHOICES = (
    Compression(method="int8", block=64),
    Compression(method="int4", block=64),
    Compression(method="sign", block=64),
    Compression(method="top_k", share=0.05, block=64),
    Compression(method="random_k", share=0.05, block=64),
    Compression(method="powersgd", rank=2),
)


def _all_conserved() -> list[tuple[float, float, int]]:
    return [_conserved(choice) for choice in CHOICES]


@pytest.mark.parametrize("size", [2, 3])
def test_what_was_given_and_what_is_carried_are_all_gradients(workers, size):
    for found in workers(size).run(_all_conserved):
        for choice, (lost, apart, sent) in zip(CHOICES, found, strict=True):
            assert lost < 2e-6, choice.method
            assert apart == 0.0, choice.method
            # 1-bit signs in blocks of 64 carry 1.5 bits a value
            assert sent < STEPS * 2 * 4 * NUMEL * 0.6, choice.method


def _power_of_low_rank(rank: int) -> float:
    """Matrices whose rows are the same every step, of rank 3 in sum: how far the second step's sum is off."""
    wire = Wire()
    method = make_method(
        Compression(method="powersgd", rank=rank), shapes=((30, 50),), offsets=(0,), numel=1500, device=CPU,
        size=wire.size,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(4)
    left, right = torch.randn(wire.size, 30, 3, generator=generator), torch.randn(3, 50, generator=generator)
    expected = (left.sum(0) @ right).view(-1)
    for step in range(2):
        for _, carried in method.elements().items():
            carried.zero_()
        values = (left[wire.rank] @ right).view(-1).clone()
        method.sum(values, wire, draw=step)
    wire.close()
    return ((values - expected).norm() / expected.norm()).item()


def test_factors_are_exact_where_the_rank_suffices(workers):
    """Every worker's matrix has the same three rows to be made of: rank 3 gives all of the sum, rank 1 does not."""
    assert max(workers(2).run(_power_of_low_rank, 3)) < 1e-5
    assert min(workers(2).run(_power_of_low_rank, 1)) > 0.1


def _half(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    wire = Wire()
    values = _gradients(wire.rank, 0) * 1e-3
    rounded = [(_gradients(rank, 0) * 1e-3).to(dtype).double() for rank in range(wire.size)]
    expected = torch.stack(rounded).sum(0)
    _method(dtype, wire.size).sum(values, wire, draw=0)
    wire.close()
    return values, expected


def test_two_workers_sum_what_was_rounded_without_rounding_again(workers):
    """1 + 1/256 has no bfloat16; the sum of two rounded values is exact in float32."""
    for values, expected in workers(2).run(_half, torch.bfloat16):
        assert torch.equal(values.double(), expected)


def test_more_workers_round_the_sum_once_more(workers):
    for values, expected in workers(3).run(_half, torch.bfloat16):
        assert torch.allclose(values.double(), expected, rtol=2**-8)
        assert torch.equal(values, expected.float().bfloat16().float())


def _overflowing() -> float:
    wire = Wire()
    values = torch.full((64,), 1e5)
    make_method(torch.float16, shapes=((64,),), offsets=(0,), numel=64, device=CPU, size=2).sum(values, wire, draw=0)
    wire.close()
    return values[0].item()


def test_float16_ends_at_its_largest_number(workers):
    """Twice 65504, in float32."""
    assert workers(2).run(_overflowing) == [131008.0, 131008.0]


def _collected() -> list[float]:
    """The root has 1000; the others' gradients are shown to it and carried where they were left out."""
    wire = Wire()
    method = _method(Compression(method="int8", block=64), wire.size)
    assert isinstance(method, EncodedSum)
    values = _gradients(wire.rank, 0)
    expected = sum(_gradients(rank, 0) for rank in range(wire.size) if rank != 1)
    method.collect(values, wire, root=1, draw=0)
    wire.close()
    carried = method.elements()["carried"].norm().item()
    return [(values - expected).norm().item() / expected.norm().item(), carried]


def test_the_root_is_shown_the_others_gradients(workers):
    found = workers(3).run(_collected)
    assert found[1][0] < 0.01
    assert found[1][1] == 0.0
    assert found[0][1] > 0.0
