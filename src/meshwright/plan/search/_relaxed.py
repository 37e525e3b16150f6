r"""How many blocks a worker can take within a time: the relaxation that bounds every staging of a frame.

Blocks of one kind alone, shared out among the workers in any numbers, each worker computing again what its memory asks
for. A worker with $c$ blocks, $n$ of them computed again, holds at least $c·w + f·(c·a - n·(a - i)) + a·[n > 0]$ bytes
(weights $w$, activations $a$, input $i$, $f$ micro-batches under way) and takes $c·t + n·t_f$.
"""

import numpy as np
from numpy.typing import NDArray

from meshwright.cost.hybrid import HybridPricer, Layout
from meshwright.plan.search._burden import Burdens
from meshwright.units import Bytes, Seconds

Times = NDArray[np.float64]


def block_times(
    pricer: HybridPricer,
    layout: Layout,
    burdens: Burdens,
    kind: int,
    *,
    limits: tuple[Bytes, ...],
    recompute: str | None,
) -> Times:
    """Least time of 0, 1, 2, … blocks of a kind on each worker for a micro-batch (`workers blocks`; infinite: no).

    Only what is sure counts, so that every staging takes at least as long.
    """
    total = int((pricer.units.kinds == kind).sum())
    counts = np.arange(total + 1, dtype=np.float64)
    weight = pricer.weight_of(layout, kind)
    flying = np.array(burdens.flying, dtype=np.float64).reshape(-1, burdens.workers).min(axis=0)[:, None]
    table = np.zeros((burdens.workers, total + 1))
    for number, replica in enumerate(layout.replicas):
        here = burdens.pieces[number]
        whole = np.array([float(one.activations[kind]) for one in here])[:, None]
        kept = np.array([float(one.inputs[kind]) for one in here])[:, None]
        limit = np.array([limits[one] for one in replica.kinds])[:, None] / pricer.correction.memory
        forward = burdens.forward[number][:, kind][:, None]
        each = forward + burdens.backward[number][:, kind][:, None]
        over = counts * (weight + flying * whole) - limit
        again = np.where(over > 0, np.ceil((over + whole) / np.maximum(flying * (whole - kept), 1e-30) - 1e-9), 0.0)
        if recompute == "none":
            again = np.where(again > 0, np.inf, 0.0)
        if recompute == "all":
            again = np.where(counts * (weight + flying * kept) + whole * (counts > 0) > limit, np.inf, counts)
        again = np.where(again > counts, np.inf, again)
        table = np.maximum(table, counts * each + again * forward)
    return np.maximum.accumulate(table, axis=1)


def least_bottleneck(table: Times) -> Seconds:
    """The smallest time in which the workers together can take all blocks; infinite where they cannot."""
    total = table.shape[1] - 1
    candidates = np.unique(table[np.isfinite(table)])
    if len(candidates) == 0 or capacity(table, candidates[-1]).sum() < total:
        return float("inf")
    low, high = 0, len(candidates) - 1
    while low < high:
        middle = (low + high) // 2
        if capacity(table, candidates[middle]).sum() >= total:
            high = middle
        else:
            low = middle + 1
    return float(candidates[low])


def capacity(table: Times, limit: Seconds) -> NDArray[np.intp]:
    """How many blocks each worker can take within a time."""
    return (table <= limit).sum(axis=1) - 1
