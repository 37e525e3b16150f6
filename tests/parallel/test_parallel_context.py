"""Sequences split over workers against one device, in float64, alone and with the other axes."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hybrid_jobs import Case, compare
from test_parallel_hybrid import _close

from meshwright.cost import Mesh, Pipeline
from meshwright.parallel.context._block import Whole, attended, gradients, merged
from meshwright.parallel.context._mirrored import Mirrored
from meshwright.parallel.context._ring import RingAttention
from meshwright.parallel.context._sight import Sight, sight
from meshwright.parallel.tensor import GroupCommunicator, HostCommunicator, Split
from meshwright.parallel.tensor._parts import part_of


@pytest.mark.parametrize("attention", ["ring", "all_to_all"])
def test_two_parts_of_every_sequence(workers, attention):
    case = Case(mesh=Mesh(cp=2), accumulation=2, sizes=(4, 4, 3), choices=(("attention", attention),))
    _close(workers(2).run(compare, case))


def test_three_parts_go_round_the_ring(workers):
    _close(workers(3).run(compare, Case(mesh=Mesh(cp=3), sizes=(4, 4, 3))))


@pytest.mark.parametrize("sharding", ["none", "parameters"])
def test_context_and_data_parallel(workers, sharding):
    axis = "dp_replicate" if sharding == "none" else "dp_shard"
    case = Case(
        mesh=Mesh(**{axis: 2}, cp=2), sharding=sharding, shares=(3, 2), accumulation=2, sizes=(5, 5, 2), weighted=True
    )
    _close(workers(4).run(compare, case))


def test_context_and_tensor_parallel(workers):
    _close(workers(4).run(compare, Case(mesh=Mesh(cp=2, tp=2), accumulation=2, sizes=(4, 4, 3))))


def test_context_and_pipeline(workers):
    case = Case(
        mesh=Mesh(pp=2, cp=2), accumulation=2, sizes=(4, 4, 3), choices=(("pipeline", Pipeline(cuts=("layers.1",))),)
    )
    _close(workers(4).run(compare, case))


def ring_beside_one_device(carrier, seed):
    """Distances of output and gradients, for a causal, a masked and a grouped-query attention."""
    distances = []
    ring = {"group": GroupCommunicator, "host": HostCommunicator}[carrier](dist.group.WORLD)
    for causal, groups, heads, width, masked in (
        (True, 1, 4, 6, ""),
        (True, 1, 4, 5, ""),  # no kernel of the processor takes values of another width
        (True, 1, 2, 6, ""),
        (True, 2, 2, 6, ""),
        (False, 1, 4, 6, ""),
        (False, 1, 4, 6, "rows"),
        (False, 2, 4, 6, "all"),
    ):
        torch.manual_seed(seed)
        query = torch.randn(2, 4, 12, 6, dtype=torch.float64, requires_grad=True)
        key, value = (torch.randn(2, heads, 12, size, dtype=torch.float64, requires_grad=True) for size in (6, width))
        shape = {"rows": (2, 1, 1, 12), "all": (1, 4, 12, 12)}.get(masked)
        mask = torch.randn(shape, dtype=torch.float64, requires_grad=True) if shape else None
        inputs = [tensor for tensor in (query, key, value, mask) if tensor is not None]
        whole = F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal, enable_gqa=heads != 4)
        weight = torch.randn_like(whole)
        expected = torch.autograd.grad((whole * weight).sum(), inputs)
        split = Split(2, groups)
        mine = {"coordinate": ring.coordinate, "degree": ring.size}
        rows = mask if masked != "all" else part_of(mask, split, **mine)
        parts = [part_of(tensor, split, **mine) for tensor in (query, key, value)]
        found = RingAttention(ring, split)(*parts, attn_mask=rows, is_causal=causal)
        got = torch.autograd.grad((found * part_of(weight, split, **mine)).sum(), inputs)
        distances.append(float((found - part_of(whole, split, **mine)).abs().max()))
        for one, other in zip(got, expected, strict=True):
            summed = one.clone()
            dist.all_reduce(summed)
            distances.append(float((summed - other).abs().max()))
    ring.close()
    return max(distances)


@pytest.mark.parametrize(("count", "carrier"), [(2, "group"), (3, "group"), (2, "host"), (3, "host")])
def test_ring_attention_equals_attention_on_one_device(workers, count, carrier):
    assert max(workers(count).run(ring_beside_one_device, carrier, 3)) < 1e-12


def test_of_eight_parts_a_worker_has_one_and_its_mirror_image():
    mirrored = Mirrored(SimpleNamespace(size=4), length=16)
    assert [mirrored.positions(worker).tolist() for worker in range(4)] == [
        [0, 1, 14, 15], [2, 3, 12, 13], [4, 5, 10, 11], [6, 7, 8, 9],
    ]  # fmt: skip


def test_causal_work_is_balanced():
    """Every worker has the scores of its own block to the diagonal, and half of each of three other blocks of 4 x 4."""
    mirrored = Mirrored(SimpleNamespace(size=4), length=16)
    parts = [mirrored.positions(worker) for worker in range(4)]
    for own in range(4):
        seen = {other: sight(parts[own], parts[other]) for other in range(4)}
        assert seen[own] == Sight(rows=slice(0, 4), columns=slice(0, 4), order="lower")
        for other in {0, 1, 2, 3} - {own}:
            earlier = Sight(rows=slice(0, 4), columns=slice(0, 2), order="all")
            assert seen[other] == (
                earlier if other < own else Sight(rows=slice(2, 4), columns=slice(0, 4), order="all")
            )


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        ([4, 5], [0, 1, 2], Sight(rows=slice(0, 2), columns=slice(0, 3), order="all")),
        ([0, 1], [2, 3], None),
        ([0, 1, 4, 5], [2, 3, 6, 7], Sight(rows=slice(2, 4), columns=slice(0, 2), order="all")),
        ([2, 3, 6, 7], [0, 1, 4, 5], Sight(rows=slice(0, 4), columns=slice(0, 4), order="some")),
    ],
)
def test_what_no_query_sees_is_left_out(rows, columns, expected):
    assert sight(torch.tensor(rows), torch.tensor(columns)) == expected


def test_features_may_lie_apart():
    """Queries and gradients that are transposed or broadcast give what dense ones do."""
    query, key, value = torch.randn(3, 1, 2, 4, 4, dtype=torch.float64)
    apart, gradient = query.transpose(-2, -1).contiguous().transpose(-2, -1), torch.ones(()).double().expand(1, 2, 4, 4)
    output, log_sum = attended(query, key, value, None, 0.5)
    assert torch.equal(attended(apart, key, value, None, 0.5)[0], output)
    whole = Whole(output=output, log_sum=log_sum, gradient=gradient.contiguous())
    expected = gradients(query, key, value, None, 0.5, whole=whole)
    found = gradients(apart, key, value, None, 0.5, whole=replace(whole, gradient=gradient))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_a_query_that_sees_no_key_of_a_block_takes_nothing_from_it():
    query, key, value = torch.randn(3, 1, 1, 4, 2, dtype=torch.float64)
    hidden = torch.full((4, 4), float("-inf"), dtype=torch.float64)
    output, log_sum = attended(query, key, value, None, 1.0)
    both = merged(output, log_sum, *attended(query, key, value, hidden, 1.0))
    torch.testing.assert_close(both[0], output)
    torch.testing.assert_close(both[1], log_sum)
