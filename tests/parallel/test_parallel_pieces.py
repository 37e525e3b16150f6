"""Whole tensors from pieces: hand-cut ones, and on workers of which each has something else."""

import pytest
import torch
import torch.distributed as dist

from meshwright.parallel._pieces import Piece, Span, assembled, collected, everywhere


def test_a_fused_dim_is_put_together_range_by_range():
    """Rows 0…3 and 4…7 are two ranges; each of two workers holds a half of both."""
    whole = torch.arange(8).reshape(8, 1)
    pieces = [
        ((Span(dim=0, groups=2, index=index),), whole[[0 + 2 * index, 1 + 2 * index, 4 + 2 * index, 5 + 2 * index]])
        for index in (1, 0)
    ]
    assert torch.equal(assembled(pieces), whole)


def test_nested_splits_with_an_uneven_inner_one():
    whole = torch.randn(6, 5)
    pieces = []
    for column, half in enumerate(whole.split([3, 2], dim=1)):
        for row, quarter in enumerate(half.split([4, 2, 0])):
            pieces.append(((Span(dim=1, index=column), Span(dim=0, index=row)), quarter))
    assert torch.equal(assembled(pieces), whole)


def _hold() -> tuple[list[str], bool, bool]:
    """Worker 0 has half of `a` and all of `b`, worker 1 the other half and `b` too; worker 2 has `c` alone."""
    rank = dist.get_rank()
    whole = torch.arange(6.0).reshape(2, 3)
    pieces = [Piece(name="b", tensor=torch.ones(2)), Piece(name="c", tensor=torch.tensor(7))][rank // 2 : 1 + rank // 2]
    if rank < 2:
        pieces.append(Piece(name="a", tensor=whole[rank : rank + 1], spans=(Span(dim=0, index=rank),)))
    found = dict(collected(pieces, None))
    anywhere = everywhere(pieces, None)
    right = torch.equal(anywhere["a"], whole) and torch.equal(anywhere["b"], torch.ones(2)) and anywhere["c"] == 7
    return sorted(found), bool(right), rank > 0 or torch.equal(found["a"], whole)


@pytest.mark.parametrize("size", [3])
def test_pieces_of_three_workers(workers, size):
    assert workers(size).run(_hold) == [(["a", "b", "c"], True, True), ([], True, True), ([], True, True)]
