"""Layouts: parts put together give the whole, and a change of layout has the transposed change as its backward."""

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from meshwright.parallel.tensor import (
    COPIED,
    PARTIAL,
    REPLICATED,
    GroupCommunicator,
    HostCommunicator,
    Split,
)
from meshwright.parallel.tensor._conversions import Conversion
from meshwright.parallel.tensor._parts import part_of, placed, stacked_parts, whole_of
from meshwright.parallel.tensor.rules._views import mapped_split

LAYOUTS = [REPLICATED, COPIED, PARTIAL, Split(0), Split(1), Split(1, 3)]


@st.composite
def split_tensors(draw):
    """A tensor, a way to split it, and a degree."""
    degree, groups, length = draw(st.sampled_from([2, 3, 4])), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    shape = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    dim = draw(st.integers(0, len(shape) - 1))
    shape[dim] = groups * degree * length
    return torch.arange(torch.Size(shape).numel()).reshape(shape), Split(dim, groups), degree


@given(split_tensors())
def test_parts_make_the_whole(case):
    """Stacked, joined and placed parts agree with each other."""
    whole, split, degree = case
    parts = [part_of(whole, split, coordinate=coordinate, degree=degree) for coordinate in range(degree)]
    assert torch.equal(whole_of(torch.stack(parts), split), whole)
    assert torch.equal(stacked_parts(whole, split, degree), torch.stack(parts))
    assert torch.equal(sum(placed(p, split, coordinate=c, degree=degree) for c, p in enumerate(parts)), whole)


@given(split_tensors(), st.data())
def test_views_of_parts_are_parts_of_views(case, data):
    """Where `mapped_split` finds a split in another shape, viewing the part gives the part of the view."""
    whole, split, degree = case
    after = tuple(data.draw(st.sampled_from(_factorings(whole.numel()))))
    found = mapped_split(tuple(whole.shape), after, split, degree)
    if found is None:
        return
    for coordinate in range(degree):
        part = part_of(whole, split, coordinate=coordinate, degree=degree)
        expected = part_of(whole.reshape(after), found, coordinate=coordinate, degree=degree)
        assert torch.equal(part.reshape(expected.shape), expected)


def test_fused_heads_are_found_in_a_view():
    """Three ranges of 4 heads of 2, each split by two workers: the heads' dim of (3, 4, 2)."""
    assert mapped_split((24,), (3, 4, 2), Split(0, 3), 2) == Split(1)
    assert mapped_split((5, 6), (30,), Split(1), 2) == Split(0, 5)
    assert mapped_split((12,), (3, 4), Split(0), 2) is None


def conversion_errors(kind: str) -> list[str]:
    """Changes of layout whose value or gradient is wrong on this worker."""
    communicator = {"group": GroupCommunicator, "host": HostCommunicator}[kind](dist.group.WORLD)
    rank, degree = communicator.coordinate, communicator.size
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(8, 24, dtype=torch.float64, generator=generator)
    slope = torch.randn(8, 24, dtype=torch.float64, generator=generator)
    wrong = []
    for before in LAYOUTS:
        for after in LAYOUTS:
            tensor = _held(whole, before, rank, degree).requires_grad_()
            result = Conversion(before, after, communicator)(tensor)
            result.backward(_gradient(slope, after, rank, degree))
            value = _assembled(result.detach(), after, communicator)
            gradient = _assembled_gradient(tensor.grad, before, communicator)
            if not (torch.allclose(value, whole) and torch.allclose(gradient, slope)):
                wrong.append(f"{before} to {after}")
    communicator.close()
    return wrong


@pytest.mark.parametrize("kind", ["group", "host"])
def test_conversions(workers, kind):
    """Every change of every layout, forward and backward."""
    assert workers(2).run(conversion_errors, kind) == [[], []]


def carried(kind, counts, width):
    """Rows numbered by sender and place, from everybody to everybody; a tensor handed round; the sum of the ranks."""
    communicator = {"group": GroupCommunicator, "host": HostCommunicator}[kind](dist.group.WORLD)
    rank = communicator.coordinate
    rows = 100 * rank + torch.arange(sum(counts[rank]), dtype=torch.float32)
    arrived = communicator.travel(rows.unsqueeze(1).repeat(1, width), counts)
    previous = communicator.rotate(torch.full((3,), rank))()
    total = communicator.all_reduce(torch.full((5,), rank))
    communicator.close()
    equal = bool((arrived == arrived[:, :1]).all())
    return arrived[:, 0].tolist(), equal, previous.tolist(), total.tolist()


@pytest.mark.parametrize("kind", ["group", "host"])
@pytest.mark.parametrize("width", [3, 400_000], ids=["small", "more than the staging memory"])
def test_uneven_rows_travel(workers, kind, width):
    """Three workers, of which one has nothing for another, and one gets nothing from itself."""
    found = workers(3).run(carried, kind, [[1, 0, 2], [2, 1, 1], [0, 3, 0]], width)
    assert [rows for rows, *_ in found] == [[0, 100, 101], [102, 200, 201, 202], [1, 2, 103]]
    assert [rest for _, *rest in found] == [[True, [before] * 3, [3] * 5] for before in (2, 0, 1)]


def _held(whole, layout, rank, degree):
    """What a worker holds of a value; partial sums are worth something on every worker."""
    if isinstance(layout, Split):
        return part_of(whole, layout, coordinate=rank, degree=degree).clone()
    return whole * (rank + 1) / 3 if layout is PARTIAL else whole.clone()


def _gradient(slope, layout, rank, degree):
    """The gradient that comes back to a layout."""
    return _held(slope, PARTIAL if layout is COPIED else REPLICATED if layout is PARTIAL else layout, rank, degree)


def _assembled(tensor, layout, communicator):
    if isinstance(layout, Split):
        return whole_of(communicator.all_gather(tensor.contiguous()), layout)
    return communicator.all_reduce(tensor.clone()) if layout is PARTIAL else tensor


def _assembled_gradient(tensor, layout, communicator):
    return _assembled(
        tensor, PARTIAL if layout is COPIED else REPLICATED if layout is PARTIAL else layout, communicator
    )


def _factorings(size: int) -> list[tuple[int, ...]]:
    pairs = [(first, size // first) for first in range(1, size + 1) if size % first == 0]
    return [(size,), *pairs, *((a, d, b // d) for a, b in pairs for d in range(1, b + 1) if b % d == 0)]
