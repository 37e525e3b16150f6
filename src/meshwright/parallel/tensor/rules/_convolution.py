"""Convolutions by channel, and what works on each channel by itself."""

from meshwright.parallel.tensor._operation import Operation
from meshwright.parallel.tensor.rules._rule import LetterRule, Letters


class Convolution(LetterRule):
    """By output channels, or by input channels into partial sums; by groups where it has them."""

    def letters(self, operation: Operation) -> Letters | None:
        """Examples, input and output channels."""
        ndim = len(operation.results[0])
        space = ("",) * (len(operation.shapes[1]) - 2)
        if ndim != len(space) + 2:
            return None
        groups = operation.argument("groups", 1)
        transposed = "transpose" in operation.name or bool(operation.argument("transposed", False))
        if groups > 1:
            return self._grouped(operation, groups, space)
        weight = ("i", "o", *space) if transposed else ("o", "i", *space)
        operands = (("n", "i", *space), weight, ("o",))
        return Letters(
            operands=operands[: len(operation.operands)],
            results=(("n", "o", *space),),
            summed=frozenset("i"),
            addends=frozenset((2,)),
        )

    def _grouped(self, operation: Operation, groups: int, space: tuple[str, ...]) -> Letters:
        letter = "g" if groups % operation.degree == 0 else ""
        operands = (("n", letter, *space), (letter, "", *space), (letter,))
        return Letters(
            operands=operands[: len(operation.operands)],
            results=(("n", letter, *space),),
            single=frozenset("g"),
            kinds={"g": "groups"},
        )


class ByChannel(LetterRule):
    """Pooling and resizing: every channel by itself, space whole.

    Args:
        space: last dims that stay whole.
    """

    def __init__(self, space: int) -> None:
        self._space = space

    def letters(self, operation: Operation) -> Letters | None:
        """All dims but the last ones."""
        leading = tuple(f"d{dim}" for dim in range(len(operation.shapes[0]) - self._space))
        dims = (*leading, *("",) * self._space)
        rest = tuple(("",) * len(shape) for shape in operation.shapes[1:])
        return Letters(operands=(dims, *rest), results=(dims,) * len(operation.results))


class Padding(LetterRule):
    """`pad`: the dims that it makes longer stay whole."""

    def letters(self, operation: Operation) -> Letters | None:
        """Those that keep their length."""
        shape, result = operation.shapes[0], operation.results[0]
        padded = {len(shape) - 1 - place // 2 for place, width in enumerate(operation.argument("pad")) if width}
        dims = tuple(
            "" if dim in padded or before != after else f"d{dim}"
            for dim, (before, after) in enumerate(zip(shape, result, strict=True))
        )
        return Letters(operands=(dims,), results=(dims,))
