r"""How large the shards of unequal devices are: as their memory asks for, or as fast as each updates.

With $S$ the bytes that are kept in shards and $R_i$ what data rank $i$'s device has to spare beside everything else, a
layout fits with some shards if $\sum_i \max(0, R_i) \ge S$. The most even ones, which travel fastest, are then
$\min(R_i, λ) / S$ with the level $λ$ at which they add up. What is computed again makes $R_i$ larger: numbers of blocks
from the fewest with which the sum is enough to those with which equal shards fit give shards of their own.
Where memory asks for nothing, equal shards let the slowest device end its update last; shards in proportion to the
rates of updates end all at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from meshwright.cost.hybrid import HybridPricer, Layout, Replica, Stages
from meshwright.plan._goal import Goal
from meshwright.plan._shard_sizes import Parts, in_whole_numbers, levelled
from meshwright.plan.search._limits import limits
from meshwright.units import Bytes

_WORTHWHILE = 0.005  # share of the work that an update in proportion to speed has to save


def may_differ(layout: Layout) -> bool:
    """Whether shards may be unequal: of one copy, on devices that differ, of what all data ranks have."""
    mesh = layout.mesh
    several = len({replica.kinds for replica in layout.replicas}) > 1
    one_copy = mesh.dp_replicate == 1 and mesh.ep == 1 and layout.exchange.updates is None
    lossy = layout.sharding == "parameters" and layout.exchange.compression is not None
    return several and one_copy and layout.sharding != "none" and not lossy


def with_shards(pricer: HybridPricer, goal: Goal, layout: Layout) -> Iterator[Layout]:
    """A layout without its stages, with equal shards and with others that may be better."""
    pinned = goal.pins.shards
    if pinned not in (None, "equal"):
        chosen = pinned_shards(layout, pinned)
        if chosen is not None:
            yield replace(layout, shards=chosen)
        return
    yield layout
    if pinned is None and may_differ(layout):
        found = (*_by_memory(pricer, goal, layout), _by_update(pricer, layout))
        for shards in dict.fromkeys(one for one in found if one and len(set(one)) > 1):
            yield replace(layout, shards=shards)


def pinned_shards(layout: Layout, text: str) -> tuple[int, ...] | None:
    """Pinned sizes by replica: one for each kind of device in the order of the ranks; None where they do not suit."""
    sizes = [int(size) for size in text.split(":")]
    kinds = list(dict.fromkeys(replica.kinds for replica in layout.replicas))
    if not may_differ(layout) or len(sizes) != len(kinds):
        return None
    return tuple(sizes[kinds.index(replica.kinds)] for replica in layout.replicas)


def _by_memory(pricer: HybridPricer, goal: Goal, layout: Layout) -> Iterator[tuple[int, ...] | None]:
    """Shards as even as memory allows, with the fewest blocks computed again that make them fit, and with more."""
    most = limits(pricer, goal, layout)
    blocks = int(pricer.units.is_block.sum())
    counts = np.array([replica.count for replica in layout.replicas], dtype=np.float64)
    eighths = _in_eighths(blocks, goal.pins.recompute)
    parts = _parts(pricer, layout, most, eighths[0])
    # A block that is computed again comes back for its backward, once for all of them: if neither none nor all are
    # enough, none between are.
    if counts @ parts < 1 and counts @ _parts(pricer, layout, most, eighths[-1]) < 1:
        return
    for again in eighths:
        parts = parts if again == eighths[0] else _parts(pricer, layout, most, again)
        if (parts * layout.mesh.dp_shard >= 1).all():
            return
        if counts @ parts >= 1:
            yield in_whole_numbers(levelled(parts, counts), counts, most=parts)


def _parts(pricer: HybridPricer, layout: Layout, most: Sequence[Bytes], again: int) -> Parts:
    """What each replica's data ranks have room for, as a part of all shards together."""
    rooms, needs = _rooms(pricer, layout, most, again)
    return np.maximum(rooms, 0.0) / needs


def _in_eighths(blocks: int, recompute: str | None) -> Sequence[int]:
    """Numbers of blocks to compute again, fewest first."""
    if recompute is not None:
        return (blocks,) if recompute == "all" else (0,)
    return sorted({round(blocks * eighths / 8) for eighths in range(9)})


def _rooms(pricer: HybridPricer, layout: Layout, most: Sequence[Bytes], again: int) -> tuple[Parts, Parts]:
    """What each replica's devices have to spare beside everything but shards, and what all shards together take (B).

    Of a pipeline's workers, those with the least to spare for what they have to keep; units are shared out evenly.
    """
    stages, degree = _evenly(pricer, layout, again), layout.mesh.dp_shard
    rooms, needs = [], []
    for replica in layout.replicas:
        # with nothing in shards and with twice an even part of it: what lies between is linear, or less
        one = replace(replica, count=1)
        first_holds_most = layout.schedule == "1f1b" and len(set(replica.kinds)) == 1
        ranks = range(1 if first_holds_most else layout.mesh.pp)
        ends = []
        for own in (0, 2):
            alone = replace(layout, bounds=(0,) * layout.mesh.pp, replicas=(one, _NOBODY), shards=(own, degree - own))
            ends.append([pricer.memory_of(alone, stages, one, rank).peak for rank in ranks])
        limit = np.array([most[replica.kinds[rank]] for rank in ranks], dtype=np.float64)
        none, twice = np.array(ends[0], dtype=np.float64), np.array(ends[1], dtype=np.float64)
        needed = np.maximum(twice - none, 1.0) * degree / 2
        tightest = int(np.argmin((limit - none) / needed))
        rooms.append((limit - none)[tightest])
        needs.append(needed[tightest])
    return np.array(rooms), np.array(needs)


_NOBODY = Replica(count=1, kinds=(), examples=0.0)


def _evenly(pricer: HybridPricer, layout: Layout, again: int) -> Stages:
    """Units shared out evenly among a pipeline's workers, so many blocks in all computed again."""
    workers = layout.mesh.pp
    units = np.bincount(pricer.units.kinds, minlength=pricer.units.num_kinds).astype(np.float64)
    is_block = np.zeros_like(units)
    is_block[1:-1] = 1.0
    share = again / max(1, int(pricer.units.is_block.sum()))
    rows = np.tile(units / workers, (workers, 1))
    return Stages(units=rows, again=rows * is_block * share, workers=workers)


def _by_update(pricer: HybridPricer, layout: Layout) -> tuple[int, ...] | None:
    """Shards that all devices update in the same time; None where that saves too little."""
    units = np.bincount(pricer.units.kinds, minlength=pricer.units.num_kinds) / layout.mesh.pp
    equal = replace(layout, shards=())
    times = np.array([
        max(pricer.update(equal, replica, kind, units) for kind in set(replica.kinds)) for replica in layout.replicas
    ])  # fmt: skip
    counts = np.array([replica.count for replica in layout.replicas], dtype=np.float64)
    speeds = 1 / np.maximum(times, 1e-30)
    parts = speeds / (counts @ speeds)
    saved = times.max() - (times * parts * layout.mesh.dp_shard).max()
    work = min(
        layout.micro_batches
        * sum(float((one.forward + one.backward) @ units) for _, one in pricer.kinds(equal, replica))
        for replica in layout.replicas
    )
    return in_whole_numbers(parts, counts) if saved > _WORTHWHILE * work else None
