"""Tensors cut into pieces along a dim, and put together again."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

from meshwright.parallel.tensor._layout import COPIED, PARTIAL, Layout, Split
from meshwright.parallel.tensor._operation import Choice, Operation
from meshwright.parallel.tensor.rules._rule import LetterRule, Letters, Rule, distinct, positive


class Pieces(Rule):
    """`split`, `chunk`, `slice`, `narrow`: one operand, pieces of it along a dim.

    Along another dim the split is the same on both sides. Along the dim itself every piece must consist of whole
    ranges: a fused query, key and value of three ranges, each of them split, falls into three split pieces.
    """

    def choice(self, operation: Operation, place: int, split: Split) -> Choice | None:
        """The operand and every piece split."""
        dim = positive(operation.argument("dim", 0) or 0, len(operation.shapes[0]))
        rest = (COPIED,) * (len(operation.operands) - 1)
        if split.dim != dim:
            return Choice((split, *rest), (split,) * len(operation.results), "pieces")
        bounds = piece_bounds(operation, dim)
        if bounds is None:
            return None
        size = operation.shapes[0][dim]
        number = place - len(operation.operands)
        length = operation.results[number][dim] if number >= 0 else size
        layouts = _aligned(bounds, size, length // split.groups, operation.degree, dim)
        return Choice((layouts[0], *rest), tuple(layouts[1:]), "pieces") if layouts else None

    def others(self, operation: Operation) -> Sequence[Choice]:
        """Pieces of partial sums."""
        rest = (COPIED,) * (len(operation.operands) - 1)
        return [Choice((PARTIAL, *rest), (PARTIAL,) * len(operation.results), divided=False)]


class Concatenation(Rule):
    """`cat`: pieces put together along a dim."""

    def choice(self, operation: Operation, place: int, split: Split) -> Choice | None:
        """Every piece and the whole split; a legacy piece without elements has no dims to split."""
        whole = operation.results[0]
        dim = positive(operation.argument("dim", 0), len(whole))
        pieces = [shape for shape in operation.shapes if shape != (0,)]
        if any(len(shape) != len(whole) for shape in pieces):
            return None
        if split.dim != dim:
            return Choice(_with_empties(operation, [split] * len(pieces)), (split,))
        ends = [0, *accumulate(shape[dim] for shape in pieces)]
        length = (*operation.shapes, whole)[place][dim]
        layouts = _aligned(list(pairwise(ends)), whole[dim], length // split.groups, operation.degree, dim)
        return Choice(_with_empties(operation, layouts[1:]), (layouts[0],)) if layouts else None

    def others(self, operation: Operation) -> Sequence[Choice]:
        """Partial sums put together."""
        pieces = sum(shape != (0,) for shape in operation.shapes)
        return [Choice(_with_empties(operation, [PARTIAL] * pieces), (PARTIAL,), divided=False)]


def _with_empties(operation: Operation, layouts: Sequence[Layout]) -> tuple[Layout, ...]:
    """The layouts of the pieces, and of those without elements."""
    remaining = iter(layouts)
    return tuple(COPIED if shape == (0,) else next(remaining) for shape in operation.shapes)


class Stack(LetterRule):
    """`stack`: the new dim cannot be split."""

    def letters(self, operation: Operation) -> Letters | None:
        """The operands', with a hole."""
        dims = distinct("d", len(operation.shapes[0]))
        at = positive(operation.argument("dim", 0), len(dims) + 1)
        count = len(operation.operands)
        return Letters(
            operands=(dims,) * count,
            results=((*dims[:at], "", *dims[at:]),),
            linear=(frozenset(range(count)),),
        )


class Selection(LetterRule):
    """`select`, `unbind`: one dim goes, and cannot be split."""

    def letters(self, operation: Operation) -> Letters | None:
        """The other dims'."""
        shape = operation.shapes[0]
        at = positive(operation.argument("dim", 0), len(shape))
        dims = tuple("" if dim == at else f"d{dim}" for dim in range(len(shape)))
        kept = tuple(name for name in dims if name)
        return Letters(operands=(dims,), results=(kept,) * len(operation.results), linear=(frozenset((0,)),))


def piece_bounds(operation: Operation, dim: int) -> list[tuple[int, int]] | None:
    """Where the pieces begin and end; None where they are not contiguous ranges."""
    name, size = operation.name.removeprefix("aten."), operation.shapes[0][dim]
    if name in ("slice", "narrow"):
        if operation.argument("step", 1) != 1:
            return None
        start = operation.argument("start") or 0
        if not isinstance(start, int):
            return None
        start = max(0, start + size if start < 0 else min(start, size))
        return [(start, start + operation.results[0][dim])]
    ends = [0, *accumulate(result[dim] for result in operation.results)]
    return list(pairwise(ends))


def _aligned(bounds: list[tuple[int, int]], size: int, length: int, degree: int, dim: int) -> list[Layout] | None:
    """Layout of the whole and of each piece when each range of `length` is split; None where a piece cuts a range."""
    if not length or length % degree or size % length:
        return None
    if any(start % length or stop % length for start, stop in bounds):
        return None
    if any(start == stop for start, stop in bounds):
        return None
    return [Split(dim, size // length), *(Split(dim, (stop - start) // length) for start, stop in bounds)]
