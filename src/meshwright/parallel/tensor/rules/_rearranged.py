"""Dims in another order, added, dropped or stretched."""

from meshwright.parallel.tensor._operation import Operation
from meshwright.parallel.tensor.rules._rule import LetterRule, Letters, distinct, positive

_FIRST = (frozenset((0,)),)


class Permutation(LetterRule):
    """`permute`, `transpose`, `t`, `movedim`, `mT`: letters move with their dims."""

    def letters(self, operation: Operation) -> Letters | None:
        """One letter per dim."""
        dims = distinct("d", len(operation.shapes[0]))
        return Letters(operands=(dims,), results=(_permuted(operation, dims),), linear=_FIRST)


class Stretch(LetterRule):
    """`expand`, `broadcast_to`: stretched dims can be split in the result though there is one value only."""

    def letters(self, operation: Operation) -> Letters | None:
        """One letter per dim of the result."""
        source, result = operation.shapes[0], operation.results[0]
        dims = distinct("d", len(result))
        offset = len(result) - len(source)
        operand = tuple(dims[offset + dim] if size == result[offset + dim] else "" for dim, size in enumerate(source))
        rest = tuple(("",) * len(shape) for shape in operation.shapes[1:])
        return Letters(operands=(operand, *rest), results=(dims,), linear=_FIRST, kinds=dict.fromkeys(dims, "shape"))


class Repetition(LetterRule):
    """`repeat`, and `repeat_interleave` by a number: dims said once can be split.

    An element that is said several times in a row stays with its worker too: `repeat_interleave` along a split dim.
    """

    def letters(self, operation: Operation) -> Letters | None:
        """The operand's dims, where the result has them once or element by element."""
        source, result = operation.shapes[0], operation.results[0]
        if len(operation.operands) > 1:
            return None
        added = len(result) - len(source)
        if operation.name == "aten.repeat":
            dims = tuple(f"d{dim}" if size == result[added + dim] else "" for dim, size in enumerate(source))
            return Letters(operands=(dims,), results=((*("",) * added, *dims),), linear=_FIRST)
        if operation.argument("dim") is None:
            return None
        dims = distinct("d", len(source))
        given = operation.argument("output_size") is not None
        kinds = {dims[positive(operation.argument("dim"), len(dims))]: "output_size"} if given else {}
        return Letters(operands=(dims,), results=(dims,), linear=_FIRST, kinds=kinds)


class AddedDim(LetterRule):
    """`unsqueeze`."""

    def letters(self, operation: Operation) -> Letters | None:
        """The operand's, with a hole."""
        dims = distinct("d", len(operation.shapes[0]))
        at = positive(operation.argument("dim"), len(dims) + 1)
        return Letters(operands=(dims,), results=((*dims[:at], "", *dims[at:]),), linear=_FIRST)


class DroppedDims(LetterRule):
    """`squeeze`: dims of length one go."""

    def letters(self, operation: Operation) -> Letters | None:
        """The operand's without those."""
        shape = operation.shapes[0]
        dims = distinct("d", len(shape))
        given = operation.argument("dim")
        chosen = range(len(shape)) if given is None else [given] if isinstance(given, int) else given
        dropped = {positive(dim, len(shape)) for dim in chosen if shape[dim] == 1}
        kept = tuple(name for dim, name in enumerate(dims) if dim not in dropped)
        return Letters(operands=(dims,), results=(kept,), linear=_FIRST)


class Alike(LetterRule):
    """Operations that keep the shape and work along some dims: the others can be split.

    Args:
        argument: names of the arguments that say along which dims.
        last: how many last dims it works along, where no argument says it.
    """

    def __init__(self, *argument: str, last: int = 0) -> None:
        self._arguments = argument
        self._last = last

    def letters(self, operation: Operation) -> Letters | None:
        """One letter per dim that it does not work along."""
        shape = operation.shapes[0]
        along = set(range(len(shape) - self._last, len(shape)))
        for name in self._arguments:
            given = operation.argument(name)
            if given is None:
                return None
            along |= {positive(dim, len(shape)) for dim in ([given] if isinstance(given, int) else given)}
        dims = tuple("" if dim in along else f"d{dim}" for dim in range(len(shape)))
        if any(len(result) != len(shape) for result in operation.results):
            return None
        return Letters(operands=(dims,) * len(operation.operands), results=(dims,) * len(operation.results))


def _permuted(operation: Operation, dims: tuple[str, ...]) -> tuple[str, ...]:
    name, ndim = operation.name.removeprefix("aten."), len(dims)
    if name == "permute":
        return tuple(dims[positive(dim, ndim)] for dim in operation.argument("dims"))
    order = list(dims)
    if name in ("transpose", "swapaxes", "swapdims"):
        first, second = (positive(operation.argument(key), ndim) for key in list(operation.arguments)[1:3])
        order[first], order[second] = order[second], order[first]
    elif name in ("t", "mT", "numpy_T", "adjoint", "mH", "matrix_H"):
        order[-2:] = order[: -3 if ndim > 2 else None : -1] if ndim < 2 else [order[-1], order[-2]]
    elif name in ("movedim", "moveaxis"):
        return _moved(operation, order)
    return tuple(order)


def _moved(operation: Operation, order: list[str]) -> tuple[str, ...]:
    source, destination = (operation.argument(key) for key in list(operation.arguments)[1:3])
    source, destination = ([value] if isinstance(value, int) else list(value) for value in (source, destination))
    places = {
        positive(to, len(order)): order[positive(at, len(order))] for at, to in zip(source, destination, strict=True)
    }
    remaining = iter(name for name in order if name not in places.values())
    return tuple(places.get(dim) or next(remaining) for dim in range(len(order)))
