"""Other shapes of the same elements in the same order."""

from collections.abc import Sequence
from math import prod

from meshwright.parallel.tensor._layout import COPIED, PARTIAL, Layout, Split
from meshwright.parallel.tensor._operation import Choice, Operation, Shape
from meshwright.parallel.tensor.rules._rule import Rule


class View(Rule):
    """`view`, `reshape`, `flatten`, `unflatten`: a split dim stays split where it lands between whole dims."""

    def choice(self, operation: Operation, place: int, split: Split) -> Choice | None:
        """The same elements split, in the one shape and in the other."""
        before, after = operation.shapes[0], operation.results[0]
        if place == 0:
            mapped = mapped_split(before, after, split, operation.degree)
            return Choice((split, *_rest(operation)), (mapped,), "shape") if mapped else None
        if place == len(operation.operands):
            mapped = mapped_split(after, before, split, operation.degree)
            return Choice((mapped, *_rest(operation)), (split,), "shape") if mapped else None
        return None

    def others(self, operation: Operation) -> Sequence[Choice]:
        """Partial sums in another shape."""
        return [Choice((PARTIAL, *_rest(operation)), (PARTIAL,), divided=False)]


def _rest(operation: Operation) -> tuple[Layout, ...]:
    return (COPIED,) * (len(operation.operands) - 1)


def mapped_split(before: Shape, after: Shape, split: Split, degree: int) -> Split | None:
    """Where a split dim of one shape is in another shape of the same elements.

    A split dim counts (outer, worker, rest) within the dims that were joined with it; it is found again in the dim
    whose outer count divides it.
    """
    if 0 in before:
        return None
    for start, stop, begin, end in _segments(before, after):
        if start <= split.dim < stop:
            outer = prod(before[start : split.dim]) * split.groups
            return _landing(after, range(begin, end), outer, degree)
    return None


def _landing(shape: Shape, dims: range, outer: int, degree: int) -> Split | None:
    for dim in dims:
        if shape[dim] % (outer * degree) == 0:
            return Split(dim, outer)
        if outer % shape[dim]:
            return None
        outer //= shape[dim]
    return None


def _segments(before: Shape, after: Shape) -> list[tuple[int, int, int, int]]:
    """Shortest runs of dims with equal products: (start, stop) of the one shape, (start, stop) of the other."""
    found = []
    i = j = 0
    while i < len(before) or j < len(after):
        start, begin = i, j
        left = right = 1
        while True:
            if left <= right and i < len(before):
                left, i = left * before[i], i + 1
            elif j < len(after):
                right, j = right * after[j], j + 1
            else:
                left, i = left * before[i], i + 1
            if left == right and not (_ones_follow(before, i, after, j)):
                break
        found.append((start, i, begin, j))
    return found


def _ones_follow(before: Shape, i: int, after: Shape, j: int) -> bool:
    """Whether one shape is used up and the other goes on, with ones only."""
    return (i == len(before)) != (j == len(after))
