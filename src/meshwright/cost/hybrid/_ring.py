r"""What attention over a split sequence takes on a processor: its blocks are put together from products and passes.

A worker has $1/n$ of the queries and meets the keys in $n$ blocks. No kernel does that at once: the scores $S$ of a
block are written and go through the operations of `parallel/context/_block` one by one, the outputs $O$ are merged
after every block. By what those read and write (scaling and masking 4, log-sum-exp 6, subtraction 2, exponential 2, and
for a merge 7):

    forward   14 S, 4 of them by exponentials    7 n O
    backward  13 S, 2 of them by exponentials   13 n O, with the gradients that go round
"""

import numpy as np

from meshwright.cost._rates import Rates
from meshwright.cost._workload import Column, Workload

_FLOAT = 4
# Times that scores are read or written by plain operations, by exponentials, and that outputs are; by phase.
_FORWARD = (10, 4, 7)
_BACKWARD = (11, 2, 13)


def ring_times(workload: Workload, rates: Rates, times: Column, *, examples: float, degree: int) -> Column:
    """Time of every operation (s), attention's by blocks.

    Args:
        times: with attention by one kernel (s).
        examples: of a micro-batch, over `degree`.
        degree: workers of the ring.
    """
    found = times.copy()
    for place, item in enumerate(workload.graph.operations):
        if item.kind != "attention" or item.matrix is None:
            continue
        heads, rows, width, columns = (
            side.at(examples)
            for side in (item.matrix.batch, item.matrix.rows, item.matrix.inner, item.matrix.columns)
        )  # fmt: skip
        scores, outputs = _FLOAT * heads * rows * columns, _FLOAT * heads * rows * width
        plain, exponential, merged = _FORWARD if item.phase == "forward" else _BACKWARD
        edge = np.cbrt(np.array([rows * width * columns / degree**2]))
        block = np.array([2 * scores / degree])
        found[place] = (
            item.flops.at(examples) / float(rates.matrix("float32", "default", edge)[0])
            + plain * scores / float(rates.bandwidth("pointwise", block)[0])
            + exponential * scores / float(rates.bandwidth("transcendental", block)[0])
            + merged * degree * outputs / float(rates.bandwidth("pointwise", np.array([3 * outputs]))[0])
        )
    return found
