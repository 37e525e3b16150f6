"""Rows that are treated one by one."""

from meshwright.parallel.tensor._by_row import ByRow
from meshwright.parallel.tensor._layout import COPIED, Split
from meshwright.parallel.tensor._operation import Choice, Operation
from meshwright.parallel.tensor.rules._rule import Rule


class Rows(Rule):
    """Split by rows, all that has them alike; what has none is whole on every worker."""

    def choice(self, operation: Operation, place: int, split: Split) -> Choice | None:
        """By row."""
        target = operation.node.target
        assert isinstance(target, ByRow)
        if split.dim != 0 or not (*target.rows, True)[place]:
            return None
        return Choice(tuple(split if has_rows else COPIED for has_rows in target.rows), (split,))
