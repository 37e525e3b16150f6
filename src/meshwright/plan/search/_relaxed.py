r"""How many blocks a worker can take within a time: the relaxation that bounds every staging of a frame.

Blocks of one kind alone, shared out among the workers in any numbers, each worker computing again what its memory asks
for. For $c$ blocks, $n$ of them computed again, a worker holds at least $c·w + H(c) - F(n) + a·[n > 0]$ bytes and takes
$c·t + n·t_f$: $w$ are weights, $a$ activations, $i$ the input. Every stage has a block, with as many micro-batches
under way as its place asks for, and all other blocks are where the fewest are: $H$ sums $a$ over them, $F$ sums $a - i$
over the $n$ of them that free most.
"""

import numpy as np
from numpy.typing import NDArray

from meshwright.cost.hybrid import After, HybridPricer, Layout
from meshwright.cost.hybrid._units import Units
from meshwright.plan.search._burden import Burdens
from meshwright.plan.search._rooms import room_of
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
    flying = _flying(burdens, pricer.units)
    under_way = _under_way(flying, counts)
    table = np.zeros((burdens.workers, total + 1))
    for number, replica in enumerate(layout.replicas):
        here = burdens.pieces[number]
        whole = np.array([float(one.activations[kind]) for one in here])[:, None]
        kept = np.array([float(one.inputs[kind]) for one in here])[:, None]
        limit = room_of(pricer, layout, replica, limits=limits)[:, None]
        forward = burdens.forward[number][:, kind][:, None]
        each = forward + burdens.backward[number][:, kind][:, None]
        over = counts * weight + under_way * whole - limit
        again = np.where(over > 0, _needed(flying, (over + whole) / np.maximum(whole - kept, 1e-30)), 0.0)
        if recompute == "none":
            again = np.where(again > 0, np.inf, 0.0)
        if recompute == "all":
            again = np.where(counts * weight + under_way * kept + whole * (counts > 0) > limit, np.inf, counts)
        again = np.where(again > counts, np.inf, again)
        table = np.maximum(table, counts * each + again * forward)
    return np.maximum.accumulate(table, axis=1)


def loaded(table: Times, after: After, kind: int, *, count: int) -> Times:
    """Least time of 0, 1, 2, … blocks of a kind with what follows the last backward, for each micro-batch (s).

    Args:
        table: of `block_times`.
        after: what follows.
        count: of micro-batches.
    """
    blocks, possible = np.arange(table.shape[1]), np.where(np.isfinite(table), table, 0.0)
    shown = [
        possible * (1 - hiding / count) + (blocks * after.of_units(hiding)[kind] - after.spared) / count
        for hiding in {0.0, after.hiding}
    ]
    return np.maximum(table, np.max(shown, axis=0))


def _flying(burdens: Burdens, units: Units) -> Times:
    """Micro-batches under way in each worker's stages, most first; the last is where any further block would be.

    What comes first and last may stand alone in its stage, which then need not have a block; nor need any stage one of
    this kind where there are several.
    """
    each = np.array(burdens.flying, dtype=np.float64).reshape(-1, burdens.workers)
    least = each.min(axis=0, keepdims=True)
    if len(set(units.kinds[units.is_block].tolist())) > 1:
        return least.T
    each[0, 0], each[-1, -1] = least[0, 0], least[0, -1]
    return np.vstack((-np.sort(-each, axis=0), least)).T


def _under_way(flying: Times, counts: Times) -> Times:
    """Micro-batches under way in the first so many blocks of each worker together."""
    before = np.cumsum(flying, axis=1)
    stages = flying.shape[1]
    some = np.hstack((np.zeros((len(flying), 1)), before))[:, np.minimum(counts, stages).astype(np.intp)]
    return some + np.maximum(0.0, counts - stages) * flying[:, -1:]


def _needed(flying: Times, freed: Times) -> Times:
    """How many of the blocks that free most must be computed again to free so much."""
    before, freed = np.cumsum(flying, axis=1), freed * (1 - 1e-12) - 1e-9
    first = (freed > 0).astype(np.float64)
    for place in range(before.shape[1] - 1):
        first += freed > before[:, place, None]
    return first + np.ceil(np.maximum(0.0, freed - before[:, -1:]) / flying[:, -1:])


def least_bottleneck(table: Times, least: NDArray[np.intp]) -> Seconds:
    """The smallest time in which the workers together can take all blocks; infinite where they cannot.

    Args:
        least: blocks that each worker must take.
    """
    return max(_shared_out(table), float(table[np.arange(len(table)), np.minimum(least, table.shape[1] - 1)].max()))


def _shared_out(table: Times) -> Seconds:
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


def least_total(table: Times, limit: Seconds) -> Seconds:
    """The least time of all blocks over all workers together, none above a limit; infinite where they cannot take all.

    Each worker takes as many as it can; each block that is too many frees at most the dearest block's time.
    """
    counts = capacity(table, limit)
    over = int(counts.sum()) - (table.shape[1] - 1)
    if over < 0:
        return float("inf")
    rows = np.arange(len(table))
    filled = table[rows, counts]
    steps = np.diff(np.where(np.arange(table.shape[1]) <= counts[:, None], table, filled[:, None]), axis=1)
    return float(filled.sum() - over * steps.max(initial=0.0))
