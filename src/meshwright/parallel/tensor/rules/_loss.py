"""Cross-entropy on logits of which every worker has a range of classes, or some of the rows."""

from meshwright.parallel.tensor._layout import COPIED, PARTIAL, REPLICATED, Split
from meshwright.parallel.tensor._operation import Choice, Operation
from meshwright.parallel.tensor.rules._rule import Rule

_NONE, _MEAN, _SUM = 0, 1, 2


class CrossEntropy(Rule):
    """Rows of logits (n, classes) with class numbers as targets (n).

    Split by class, each worker computes the maximum and the sum of exponentials over its own range; only those and
    the target's logit are exchanged (Megatron-LM, section 3).
    Source: Shoeybi et al. 2019, arXiv:1909.08053.
    """

    def choice(self, operation: Operation, place: int, split: Split) -> Choice | None:
        """By class, or by row."""
        logits, target = operation.shapes[:2]
        plain = len(logits) == 2 and len(target) == 1 and len(operation.operands) == 2
        if not plain or place > 1:
            return None
        reduction = operation.argument("reduction", _MEAN)
        if place == 0 and split.dim == 1:
            if split.groups > 1:
                return None
            return Choice((split, COPIED), (REPLICATED,), "class_range")
        rows = Split(0, split.groups)
        if reduction == _NONE:
            return Choice((rows, rows), (rows,))
        return Choice((rows, rows), (PARTIAL,), "row_mean" if reduction == _MEAN else "")
