"""Updates that workers do apart, where they are allowed."""

from collections.abc import Iterator
from dataclasses import replace

from meshwright.cost import Mesh, Sharding, Updates, UpdatesKind, suited_momentum
from meshwright.plan._goal import Goal, Pins

# Steps between two meetings worth a comparison. Longer ones save little more and cost loss.
_INTERVALS = (16, 64)


def ways_to_update(
    mesh: Mesh, sharding: Sharding, goal: Goal, *, num_hosts: int, on_processors: bool
) -> tuple[Updates | None, ...]:
    """Every step together; where staleness is allowed, islands of one host each that meet from time to time.

    Where every worker is an island of its own, besides: a server between hosts, memory without locks inside one. How
    many more steps each takes to a loss is part of its price.

    Args:
        num_hosts: that the workers are on.
    """
    pins, replicas = goal.pins, mesh.dp_replicate
    if "staleness" not in goal.allow or pins.updates == "every_step" or replicas < 2:
        return (None,) if pins.updates in (None, "every_step") else ()
    # links between hosts are what is worth avoiding; on one host every worker is an island
    islands = pins.islands or (num_hosts if num_hosts > 1 and not replicas % num_hosts else replicas)
    if replicas % islands or islands < 2:
        return (None,) if pins.updates is None else ()
    alone = islands == mesh.num_workers and sharding == "none"
    singly: tuple[UpdatesKind, ...] = ("asynchronous",) if num_hosts > 1 else ("shared",) if on_processors else ()
    kinds = ("local", *(singly if alone else ())) if pins.updates is None else (pins.updates,)
    found = tuple(each for kind in kinds for each in _filled_in(Updates(kind=kind, islands=islands), pins))
    return found if pins.updates is not None else (None, *found)


def _filled_in(updates: Updates, pins: Pins) -> Iterator[Updates]:
    # memory is written to in every step: an interval is what its comparisons count in
    intervals = _INTERVALS[:1] if updates.kind == "shared" else _INTERVALS
    for interval in intervals if pins.interval is None else (pins.interval,):
        usual = replace(updates, momentum=suited_momentum(interval))
        if updates.kind != "local":
            # ways that come one by one are averaged: momentum would go on with what the next one undoes
            usual = replace(updates, rate=1.0, momentum=0.0)
        yield replace(
            usual,
            interval=interval,
            rate=usual.rate if pins.outer_rate is None else pins.outer_rate,
            momentum=usual.momentum if pins.outer_momentum is None else pins.outer_momentum,
            fragments=min(pins.fragments or 1, interval),
            delay=pins.delay or 0,
        )
