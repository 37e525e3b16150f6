"""Sums, means and other reductions."""

from meshwright.parallel.tensor._operation import Operation
from meshwright.parallel.tensor.rules._rule import LetterRule, Letters, positive

_SUMS = {"sum", "nansum"}
_MEANS = {"mean"}


class Reduction(LetterRule):
    """Sums and means over a split dim give partial sums; other reductions need their dims whole."""

    def letters(self, operation: Operation) -> Letters | None:
        """One letter per dim."""
        shape = operation.shapes[0]
        name = operation.name.removeprefix("aten.")
        reduced = _reduced(operation, len(shape))
        linear = name in _SUMS | _MEANS
        dims = tuple("" if dim in reduced and not linear else f"d{dim}" for dim in range(len(shape)))
        results = []
        for result in operation.results:
            kept = len(result) == len(shape)
            names = [("" if kept else None) if dim in reduced else name for dim, name in enumerate(dims)]
            results.append(tuple(name for name in names if name is not None))
        letters = frozenset(dims[dim] for dim in reduced if dims[dim])
        return Letters(
            operands=(dims, *(("",) * len(other) for other in operation.shapes[1:])),
            results=tuple(results),
            summed=letters if name in _SUMS else frozenset(),
            averaged=letters if name in _MEANS else frozenset(),
            linear=(frozenset((0,)),) if linear else (),
        )


class ElementLoss(LetterRule):
    """`mse_loss` and its like: elementwise, then a mean, a sum, or neither."""

    def letters(self, operation: Operation) -> Letters | None:
        """Broadcast dims are not expected here: operands have one shape."""
        shape = operation.shapes[0]
        if any(other != shape for other in operation.shapes):
            return None
        dims = tuple(f"d{dim}" for dim in range(len(shape)))
        reduction = operation.argument("reduction", 1)
        return Letters(
            operands=(dims,) * len(operation.operands),
            results=(dims if reduction == 0 else (),),
            summed=frozenset(dims) if reduction == 2 else frozenset(),
            averaged=frozenset(dims) if reduction == 1 else frozenset(),
        )


def _reduced(operation: Operation, ndim: int) -> set[int]:
    given = operation.argument("dim")
    if given is None or given == []:
        return set(range(ndim))
    return {positive(dim, ndim) for dim in ([given] if isinstance(given, int) else given)}
