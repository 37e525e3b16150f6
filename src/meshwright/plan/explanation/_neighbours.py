"""Every choice of a layout changed by one step, each with the best of everything else, and why it is not chosen."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite, prod
from typing import Any, get_args

from meshwright.cost import Sharding
from meshwright.cost.hybrid import HybridPricer, Layout, Price
from meshwright.graph import Splits
from meshwright.plan._axis_order import pin_of
from meshwright.plan._goal import Goal, Pins
from meshwright.plan.explanation._comparison import beyond_limits, settled, too_large, why_not
from meshwright.plan.explanation._departures import other_departures
from meshwright.plan.search import Aim, Effort, Search, limits, orders_beside

_QUICK = Effort(priced=4, visited=60, total=240)
_LONGER = Effort(priced=4, visited=60, total=1200)  # where bounds do not settle yet that the chosen layout is better
# Choices that follow every change, unless they are pinned.
_UNFIXED = (
    "order", "recompute", "compiled", "offload", "reduction", "compression", "compression_rank", "compression_share",
    "updates", "interval", "islands", "outer_rate", "outer_momentum", "fragments", "delay",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbour:
    """A layout that differs in one choice.

    Args:
        change: the choice and its value, in words.
        layout: the best with it; None where none is legal.
        price: of it.
        reason: why it is not chosen.
        fits: whether it fits the memory and the limits on the run.
    """

    change: str
    layout: Layout | None
    price: Price | None
    reason: str
    fits: bool = True


def neighbours(
    pricer: HybridPricer, goal: Goal, aim: Aim, chosen: Layout, best: Price, *, least: float = 0.0
) -> Iterator[Neighbour]:
    """The neighbours of a layout; what a pin forbids is left out.

    Args:
        least: no layout at all has a smaller value.
    """
    fixed = pins_of(chosen)
    others = other_departures(chosen, goal.allow)
    reaches = pricer.exchanges.reaches(chosen)
    orders = [("order", pin_of(one)) for one in orders_beside(chosen.mesh, chosen.order, reaches)]
    for name, value in (*_changes(pricer.graph.splits or Splits(), chosen), *orders, *others):
        if getattr(goal.pins, name) is not None:
            continue
        pins = relaxed(fixed, goal.pins, name, value)
        known = 0.0 if name == "shard" or value == "gpipe" else least  # others are in the space of the whole search
        found = neighbour(pricer, replace(goal, pins=pins), aim, chosen, best, change=f"{name} {value}", least=known)
        if found is not None:
            yield found


def neighbour(
    pricer: HybridPricer, goal: Goal, aim: Aim, chosen: Layout, best: Price, *, change: str, least: float = 0.0
) -> Neighbour | None:
    """The best layout under changed pins, and why it is not chosen; None where none is legal.

    Args:
        least: no layout at all has a smaller value.
    """
    for effort in (_QUICK, _LONGER):
        result = Search(pricer, goal, aim, effort=effort).run()
        if result.best is None:
            break
        layout, price = result.best.layout, result.best.price
        lowest = max(least, aim.value(price) * (1 - result.gap))
        if result.gap == 0 or lowest >= aim.value(best) or effort == _LONGER:
            reason = why_not(pricer, layout, price, chosen, best, aim)
            reason += settled(price, max(0.0, 1 - lowest / aim.value(price)), best, aim)
            return Neighbour(change=change, layout=layout, price=price, reason=reason)
    return _beyond_limits(pricer, goal, aim, change) or _beyond_memory(pricer, goal, change)


def _beyond_limits(pricer: HybridPricer, goal: Goal, aim: Aim, change: str) -> Neighbour | None:
    """The fastest, or the cheapest, where even that does not keep the limits on the run."""
    if aim == Aim(minimize=aim.minimize):
        return None
    extreme = Aim() if isfinite(aim.longest) else Aim(minimize="cost")
    found = Search(pricer, goal, extreme, effort=_QUICK).run().best
    if found is None or aim.allows(found.price):
        return None
    reason = beyond_limits(found.price, aim)
    return Neighbour(change=change, layout=found.layout, price=found.price, reason=reason, fits=False)


def _beyond_memory(pricer: HybridPricer, goal: Goal, change: str) -> Neighbour | None:
    """What takes the least memory, where even that is too much."""
    boundless = _boundless(pricer)
    smallest = Search(boundless, goal, Aim(minimize="memory"), effort=_QUICK).run().best
    if smallest is None:
        return None
    fullest = max(range(len(smallest.price.memory)), key=lambda rank: smallest.price.memory[rank].peak)
    kinds = {replica.kinds[fullest] for replica in smallest.layout.replicas}
    limit = min(limits(pricer, goal, smallest.layout)[kind] for kind in kinds)
    if smallest.price.memory[fullest].peak <= limit:
        return None
    return Neighbour(
        change=change, layout=smallest.layout, price=smallest.price, reason=too_large(smallest.price, limit), fits=False
    )


def pins_of(layout: Layout) -> Pins:
    """A layout's choices as pins."""
    mesh = layout.mesh
    return Pins(
        workers=mesh.num_workers,
        data=mesh.dp_replicate,
        shard=mesh.dp_shard,
        sharding=layout.sharding,
        tensor=mesh.tp,
        sequence=layout.sequence,
        context=mesh.cp,
        expert=mesh.ep,
        pipeline=mesh.pp,
        schedule=layout.schedule if mesh.pp > 1 else None,
        stages=len(layout.bounds) if mesh.pp > 1 else None,
        accumulation=layout.micro_batches,
    )


def relaxed(fixed: Pins, pinned: Pins, name: str, value: Any) -> Pins:
    """One choice changed; what has to follow it is left open, what the user pinned stays."""
    open_: dict[str, Any] = {}
    if name in ("tensor", "context", "pipeline", "expert", "accumulation", "sharding"):
        open_ = {"data": None, "shard": None, "accumulation": None, "schedule": None, "stages": None, "sequence": None}
    if name in ("tensor", "context", "pipeline"):
        degrees = {axis: getattr(fixed, axis) or 1 for axis in ("tensor", "context", "pipeline")} | {name: value}
        each = prod(degrees.values())
        if (fixed.workers or each) % each:
            open_["workers"] = None
        if fixed.workers == each:  # nobody is left to share anything with
            open_["sharding"] = None
    if name == "sharding":
        open_ = {"data": None, "shard": None}
    if name in ("accumulation", "sequence", "shard"):
        open_ = {"data": None} if name == "shard" else {}
    if name == "schedule":
        open_ = {"stages": None}
    if name == "updates":  # islands need replicas
        open_ = {"data": None, "shard": None, "sharding": None}
    kept = {key: given for key in open_ if (given := getattr(pinned, key)) is not None}
    always: dict[str, Any] = {one: getattr(pinned, one) for one in _UNFIXED}
    return replace(fixed, **(always | open_ | kept | {name: value}))


def _changes(splits: Splits, layout: Layout) -> Iterator[tuple[str, Any]]:
    """Each choice with its nearest other values."""
    mesh = layout.mesh
    for name, degree, legal in (
        ("tensor", mesh.tp, splits.tensor.degrees if splits.tensor else ()),
        ("context", mesh.cp, splits.context.degrees if splits.context else ()),
        ("expert", mesh.ep, splits.expert.degrees if splits.expert else ()),
        ("pipeline", mesh.pp, range(2, len(splits.cuts) + 2)),
    ):
        yield from ((name, value) for value in _beside(degree, legal, mesh.num_workers))
    if mesh.tp > 1 and splits.tensor is not None and splits.tensor.split:
        yield "sequence", "whole" if layout.sequence == "split" else "split"
    yield "accumulation", layout.micro_batches * 2
    if layout.micro_batches > 1:
        yield "accumulation", layout.micro_batches // 2
    if mesh.num_shares > 1:
        yield from (("sharding", level) for level in get_args(Sharding) if level != layout.sharding)
    if layout.sharding == "parameters":
        yield from (("shard", mesh.dp_shard * 2), ("shard", mesh.dp_shard // 2))
    if layout.shards:
        yield "shards", "equal"
    if mesh.pp > 1:
        yield from (
            ("schedule", one) for one in ("gpipe", "1f1b", "interleaved", "zero_bubble") if one != layout.schedule
        )


def _beside(degree: int, legal: Sequence[int], workers: int) -> list[int]:
    """The next smaller and the next larger legal degree that divides the workers."""
    every = [one for one in (1, *legal) if workers % one == 0]
    smaller = [one for one in every if one < degree]
    larger = [one for one in every if one > degree]
    return [*smaller[-1:], *larger[:1]]


def _boundless(pricer: HybridPricer) -> HybridPricer:
    """The same hardware with a hundred times the memory: to see what something would take."""
    return with_memory(pricer, 100.0)


def with_memory(pricer: HybridPricer, times: float) -> HybridPricer:
    """The same hardware with so many times the memory."""
    hosts = tuple(
        replace(host, device=replace(host.device, memory=round(host.device.memory * times)))
        for host in pricer.cluster.hosts
    )
    return HybridPricer(pricer.graph, replace(pricer.cluster, hosts=hosts), correction=pricer.correction)
