"""What a rule is: how one operation can be split."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from meshwright.parallel.tensor._layout import COPIED, PARTIAL, Layout, Split
from meshwright.parallel.tensor._operation import Choice, Operation


class Rule(ABC):
    """The ways to split one operation besides doing it whole on every worker."""

    @abstractmethod
    def choice(self, operation: Operation, place: int, split: Split) -> Choice | None:
        """The choice in which one tensor of the operation is split in a given way; None where there is none.

        Args:
            operation: what is split.
            place: number of the tensor: operands first, then results.
            split: its layout.
        """

    def others(self, operation: Operation) -> Sequence[Choice]:
        """Choices that need no tensor to be split."""
        del operation
        return ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Letters:
    """Names for the dims of an operation's tensors, as in `einsum`: equal letters are split together.

    Args:
        operands: a letter per dim of each operand; "" for a dim that cannot be split.
        results: likewise.
        summed: letters over which the operation sums, so that a split gives partial sums.
        averaged: letters over which it takes the mean.
        addends: operands that are added to the sum: in a partial result they count once.
        linear: sets of operands in which the operation is linear together: all partial gives a partial result.
        single: letters that can be split into one range per worker only.
        kinds: what has to be done otherwise when a letter is split.
    """

    operands: tuple[tuple[str, ...], ...]
    results: tuple[tuple[str, ...], ...]
    summed: frozenset[str] = frozenset()
    averaged: frozenset[str] = frozenset()
    addends: frozenset[int] = frozenset()
    linear: tuple[frozenset[int], ...] = ()
    single: frozenset[str] = frozenset()
    kinds: dict[str, str] = field(default_factory=dict)


class LetterRule(Rule):
    """A rule that follows from the letters of an operation's dims."""

    @abstractmethod
    def letters(self, operation: Operation) -> Letters | None:
        """The letters of an operation; None where it can only be done whole."""

    def choice(self, operation: Operation, place: int, split: Split) -> Choice | None:
        """The choice in which every dim of a letter is split."""
        letters = self.letters(operation)
        if letters is None:
            return None
        dims = (*letters.operands, *letters.results)[place]
        letter = dims[split.dim] if split.dim < len(dims) else ""
        if not letter or (letter in letters.single and split.groups > 1):
            return None
        return _split_by(operation, letters, letter, split.groups)

    def others(self, operation: Operation) -> Sequence[Choice]:
        """Partial sums carried through an operation that is linear in them."""
        letters = self.letters(operation)
        if letters is None:
            return ()
        results = (PARTIAL,) * len(operation.results)
        return [
            Choice(
                tuple(PARTIAL if number in together else COPIED for number in range(len(operation.operands))),
                results,
                divided=False,
            )
            for together in letters.linear
        ]


def _split_by(operation: Operation, letters: Letters, letter: str, groups: int) -> Choice | None:
    sizes = {
        shape[dim]
        for shape, dims in zip(
            (*operation.shapes, *operation.results), (*letters.operands, *letters.results), strict=True
        )
        for dim, name in enumerate(dims)
        if name == letter
    }
    if any(size == 0 or size % (groups * operation.degree) for size in sizes) or (len(sizes) > 1 and groups > 1):
        return None
    partial = letter in letters.summed or letter in letters.averaged
    results = [_dim_of(dims, letter, groups) or (PARTIAL if partial else None) for dims in letters.results]
    if None in results:
        return None
    operands = [
        _dim_of(dims, letter, groups) or (PARTIAL if number in letters.addends and PARTIAL in results else COPIED)
        for number, dims in enumerate(letters.operands)
    ]
    kind = letters.kinds.get(letter, "mean" if letter in letters.averaged else "")
    return Choice(tuple(operands), tuple(layout for layout in results if layout is not None), kind)


def _dim_of(dims: tuple[str, ...], letter: str, groups: int) -> Layout | None:
    return Split(dims.index(letter), groups) if letter in dims else None


def broadcast(shapes: Sequence[tuple[int, ...]], result: tuple[int, ...]) -> list[tuple[str, ...]]:
    """Letters of tensors that are broadcast to a result: `d0` for its first dim, ""  where a tensor is stretched."""
    found = []
    for shape in shapes:
        offset = len(result) - len(shape)
        found.append(
            tuple(
                f"d{offset + dim}" if offset + dim >= 0 and size == result[offset + dim] else ""
                for dim, size in enumerate(shape)
            )
        )
    return found


def distinct(prefix: str, count: int) -> tuple[str, ...]:
    """Different letters for `count` dims."""
    return tuple(f"{prefix}{number}" for number in range(count))


def positive(dim: int, ndim: int) -> int:
    """A dim counted from the front."""
    return dim % ndim if ndim else 0
