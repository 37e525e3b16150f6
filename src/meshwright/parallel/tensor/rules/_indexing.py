"""Rows looked up, gathered and scattered."""

from collections.abc import Sequence

from meshwright.parallel.tensor._layout import COPIED, PARTIAL, Split
from meshwright.parallel.tensor._operation import Choice, Operation
from meshwright.parallel.tensor.rules._rule import LetterRule, Letters, Rule, distinct, positive


class Embedding(Rule):
    """Split by the width of a row, by the positions looked up, or by vocabulary into partial sums.

    By vocabulary a worker looks up the rows that it holds and gives zeros for all others (Megatron-LM, section 3).
    Source: Shoeybi et al. 2019, arXiv:1909.08053.
    """

    def choice(self, operation: Operation, place: int, split: Split) -> Choice | None:
        """Vocabulary, width or positions."""
        positions = len(operation.shapes[1])
        if place == 0 and split.dim == 0:
            if operation.argument("scale_grad_by_freq") or split.groups > 1:
                return None
            return Choice((split, COPIED), (PARTIAL,), "vocabulary")
        if place == 0 or (place == 2 and split.dim == positions):
            return Choice((Split(1, split.groups), COPIED), (Split(positions, split.groups),))
        return Choice((COPIED, Split(split.dim, split.groups)), (Split(split.dim, split.groups),))


class RowChoice(LetterRule):
    """`index_select`: all dims but the one that rows are chosen from."""

    def letters(self, operation: Operation) -> Letters | None:
        """The other dims', and the chosen positions'."""
        ndim = len(operation.shapes[0])
        at = positive(operation.argument("dim"), ndim)
        source = tuple("" if dim == at else f"d{dim}" for dim in range(ndim))
        result = tuple("p" if dim == at else f"d{dim}" for dim in range(ndim))
        position = ("p",) if operation.shapes[1] else ()
        return Letters(operands=(source, position), results=(result,), linear=(frozenset((0,)),))


class AlongDim(LetterRule):
    """`gather`, `scatter`, `scatter_add`: tensors of one shape but for the dim that they work along."""

    def letters(self, operation: Operation) -> Letters | None:
        """The other dims', where all tensors have them equally long."""
        ndim = len(operation.shapes[0])
        at = positive(operation.argument("dim"), ndim)
        shapes = operation.shapes
        if any(len(shape) != ndim for shape in shapes):
            return None
        dims = tuple("" if dim == at or len({shape[dim] for shape in shapes}) > 1 else f"d{dim}" for dim in range(ndim))
        return Letters(operands=(dims,) * len(shapes), results=(dims,))


class Index(LetterRule):
    """`x[i, j]` with index tensors next to each other: the dims of x that are not looked up, and the positions'."""

    def letters(self, operation: Operation) -> Letters | None:
        """The dims before and after those looked up, and the dims of the positions."""
        indices = operation.argument("indices")
        used = [dim for dim, index in enumerate(indices) if index is not None]
        if not used or used != list(range(used[0], used[-1] + 1)):
            return None
        source = operation.shapes[0]
        if any(operand.meta["val"].dtype.is_floating_point is True for operand in operation.operands[1:]):
            return None
        if any(str(operand.meta["val"].dtype) in ("torch.bool", "torch.uint8") for operand in operation.operands[1:]):
            return None
        names = tuple("" if dim in used else f"d{dim}" for dim in range(len(source)))
        count = len(operation.results[0]) - (len(source) - len(used))
        positions = distinct("p", count)
        lookups = tuple(
            tuple(
                positions[count - len(shape) + dim]
                if size == operation.results[0][used[0] + count - len(shape) + dim]
                else ""
                for dim, size in enumerate(shape)
            )
            for shape in operation.shapes[1:]
        )
        result = (*names[: used[0]], *positions, *names[used[-1] + 1 :])
        return Letters(operands=(names, *lookups), results=(result,), linear=(frozenset((0,)),))


class EmbeddingBag(Rule):
    """Sums or means of rows, split by the width of a row."""

    def choice(self, operation: Operation, place: int, split: Split) -> Choice | None:
        """By width; the further results are counts and stay whole."""
        if split.dim != 1 or place not in (0, len(operation.operands)):
            return None
        if operation.argument("mode", 0) == 2:
            return None
        rest = (COPIED,) * (len(operation.operands) - 1)
        return Choice((split, *rest), (split, *(COPIED,) * (len(operation.results) - 1)))

    def others(self, operation: Operation) -> Sequence[Choice]:
        """None."""
        del operation
        return ()
