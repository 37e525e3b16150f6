"""Shards of unequal size on hosts that were measured: as even as each host's memory allows."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from meshwright.cost import Pricer, Strategy, Worker
from meshwright.plan._goal import Goal
from meshwright.plan._shard_sizes import in_whole_numbers, levelled
from meshwright.units import Bytes


def with_shards(pricer: Pricer, goal: Goal, strategy: Strategy, limits: dict[Worker, Bytes]) -> Iterator[Strategy]:
    """A strategy with equal shards, and with others where equal ones do not fit, or where they are pinned.

    Args:
        limits: what each worker may use (B).
    """
    pinned = goal.pins.shards
    if pinned not in (None, "equal"):
        sizes = tuple(int(size) for size in pinned.split(":"))
        if may_differ(strategy) and len(sizes) == strategy.mesh.dp_shard:
            yield replace(strategy, shards=sizes)
        return
    yield strategy
    if pinned is None and len(set(limits.values())) > 1 and may_differ(strategy):
        shards = _by_memory(pricer, strategy, limits)
        if shards is not None and len(set(shards)) > 1:
            yield replace(strategy, shards=shards)


def may_differ(strategy: Strategy) -> bool:
    """Whether shards may be unequal: of one copy, in exact steps, and of parameters uncompressed."""
    lossy = strategy.sharding == "parameters" and strategy.exchange.compression is not None
    together = strategy.mesh.dp_replicate == 1 and strategy.exchange.updates is None
    return strategy.sharding != "none" and together and not lossy


def _by_memory(pricer: Pricer, strategy: Strategy, limits: dict[Worker, Bytes]) -> tuple[int, ...] | None:
    """The most even shards that fit; None where equal ones do, or none."""
    size = strategy.num_workers
    even = np.array([pricer.held_by(strategy, worker).peak for worker in strategy.workers], dtype=np.float64)
    most = np.array([limits[worker] for worker in strategy.workers], dtype=np.float64)
    if (even <= most).all():
        return None
    none = np.array([_without(pricer, strategy, worker) for worker in strategy.workers], dtype=np.float64)
    parts = np.maximum(most - none, 0.0) / np.maximum((even - none) * size, 1.0)
    counts = np.ones(size)
    return in_whole_numbers(levelled(parts, counts), counts, most=parts) if parts.sum() >= 1 else None


def _without(pricer: Pricer, strategy: Strategy, worker: Worker) -> Bytes:
    """What a worker holds that has no part of what is in shards (B)."""
    others = tuple(int(other is not worker) for other in strategy.workers)
    return pricer.held_by(replace(strategy, shards=others), worker).peak
