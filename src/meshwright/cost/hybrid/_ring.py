r"""What attention over a split sequence takes on a processor beside the kernel's own time: packing and adding up.

A worker has $1/n$ of the queries and meets the keys in $n$ blocks, each by the kernel of attention without a ring. Keys
and values are packed; a block's outputs $O$ are merged with those before it (7 passes over them), its gradients
added to those of queries, keys and values (3 passes over each), and keys and values are packed again:

    forward    4 O + 7 (n - 1) O
    backward   4 O + 9 n O

Causal attention is computed on balanced halves: of every block but a worker's own one half, so that the kernel takes
$(n + 1) / 2n$ of its time. The halves are packed and unpacked, before and after: 16 O in each phase, with strides.
"""

import numpy as np

from meshwright.cost._rates import Rates
from meshwright.cost._workload import Column, Workload

_FLOAT = 4
_PACKING, _MERGING, _ADDING, _BALANCING = 4, 7, 9, 16


def ring_times(workload: Workload, rates: Rates, times: Column, *, examples: float, degree: int) -> Column:
    """Time of every operation (s), with what attention in blocks adds.

    Args:
        times: with attention by one kernel (s).
        examples: of a micro-batch, over `degree`.
        degree: workers of the ring.
    """
    found = times.copy()
    causal = "causal_attention" in workload.graph.traits
    share = (degree + 1) / (2 * degree) if causal else 1.0
    for place, item in enumerate(workload.graph.operations):
        if item.kind != "attention" or item.matrix is None:
            continue
        heads, rows, width = (side.at(examples) for side in (item.matrix.batch, item.matrix.rows, item.matrix.inner))
        outputs = _FLOAT * heads * rows * width
        passes = _PACKING + (_MERGING * (degree - 1) if item.phase == "forward" else _ADDING * degree)
        size = np.array([3 * outputs])
        found[place] = share * times[place] + passes * outputs / float(rates.bandwidth("pointwise", size)[0])
        if causal:
            found[place] += _BALANCING * outputs / float(rates.bandwidth("copy", size, variant="strided")[0])
    return found
