"""Exchanges that another axis has put into the program: each worker of this axis does them with its own part."""

from meshwright.parallel.tensor._conversions import Conversion
from meshwright.parallel.tensor._layout import Layout, Split
from meshwright.parallel.tensor._operation import Operation
from meshwright.parallel.tensor.rules._rule import LetterRule, Letters


class Moved(LetterRule):
    """Every dim that the exchange itself does not split or gather can be split over this axis too."""

    def letters(self, operation: Operation) -> Letters | None:
        """The dims that both layouts leave alone."""
        conversion = operation.node.target
        assert isinstance(conversion, Conversion)
        taken = {*_dims(conversion.before), *_dims(conversion.after)}
        dims = tuple("" if dim in taken else f"d{dim}" for dim in range(len(operation.results[0])))
        return Letters(operands=(dims,), results=(dims,), linear=(frozenset((0,)),))


def _dims(layout: Layout) -> tuple[int, ...]:
    return (layout.dim,) if isinstance(layout, Split) else ()
