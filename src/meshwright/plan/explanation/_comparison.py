"""What one layout has over another, item by item, from their prices alone."""

from collections.abc import Mapping, Sequence

from meshwright.cost import Collective, TimeBreakdown
from meshwright.cost.hybrid import Group, HybridPricer, Layout, Price, crossed_tier
from meshwright.plan._fit import itemised
from meshwright.plan.explanation._names import AXES
from meshwright.plan.search import Aim
from meshwright.units import Bytes, format_bytes, format_seconds

_WORTH_SAYING = 0.005  # items under this share of the step are left out
_LESS = {"cost": "cheaper", "energy": "less energy", "memory": "less memory"}
_MORE = {"cost": "dearer", "energy": "more energy", "memory": "more memory"}


def why_not(pricer: HybridPricer, other: Layout, price: Price, chosen: Layout, best: Price, aim: Aim) -> str:
    """Why a layout that fits is not the chosen one."""
    worse = _worse(price, best, aim)
    items = ", ".join(_items(pricer, other, price, chosen, best))
    return f"{worse}: {items}" if items else worse


def too_large(price: Price, limit: Bytes) -> str:
    """Why a layout does not fit, with the fullest worker's memory itemised."""
    rank, memory = max(enumerate(price.memory), key=lambda pair: pair[1].peak)
    where = f" in stage {rank + 1} of {len(price.memory)}" if len(price.memory) > 1 else ""
    return f"needs {format_bytes(memory.peak)}{where} of {format_bytes(limit)}: {itemised(memory)}"


def beyond_limits(price: Price, aim: Aim) -> str:
    """Which limit on a step even the fastest, or the cheapest, of some layouts does not keep."""
    if price.step > aim.longest:
        return f"a step takes at least {format_seconds(price.step)}, and may take {format_seconds(aim.longest)}"
    return f"a step costs at least ${price.money:,.4g}, and may cost ${aim.dearest:,.4g}"


def unproven(gap: float) -> str:
    """How much better a layout that was only bounded could be; nothing where none can."""
    return f" (what was only bounded may be up to {gap:.0%} better)" if gap > _WORTH_SAYING else ""


def settled(found: Price, gap: float, best: Price, aim: Aim) -> str:
    """What a neighbour takes at least by what was only bounded, and whether that settles it; nothing where none was.

    Args:
        found: of the best neighbour that was found.
        gap: by which share of its value another one could at most be better.
        best: of the chosen layout.
    """
    if gap <= _WORTH_SAYING:
        return ""
    least = aim.value(found) * (1 - gap)
    text = format_seconds(least) if aim.minimize == "time" else f"{gap:.0%} less than this"
    if least >= aim.value(best):
        return f" (any other such takes at least {text})"
    return f" (between {text} and this by what was only bounded)"


def gained(price: Price, best: Price, aim: Aim) -> str:
    """By how much a layout is better than another in what is made small."""
    if aim.minimize == "time":
        return f"{format_seconds(best.pace - price.pace)} faster"
    return f"{1 - aim.value(price) / aim.value(best):.1%} {_LESS[aim.minimize]}"


def by_example(doubled: Price, best: Price, aim: Aim) -> str:
    """What a step of twice the batch changes in what is made small, by the example."""
    if aim.minimize == "memory":
        return f"{format_bytes(doubled.peak)} instead of {format_bytes(best.peak)}"
    ratio = 2 * aim.value(best) / aim.value(doubled)
    if aim.minimize == "time":
        return f"{abs(ratio - 1):.1%} {'more' if ratio >= 1 else 'fewer'} examples per second"
    return f"{abs(1 - 1 / ratio):.1%} {_LESS[aim.minimize] if ratio > 1 else _MORE[aim.minimize]} by the example"


def longest_items(time: TimeBreakdown) -> Mapping[str, float]:
    """A step's items under the names that a reader knows."""
    return {
        "computing": time.forward + time.backward,
        "exchange that nothing hides": time.communication,
        "the bubble": time.waiting,
        "recomputation": time.recompute,
        "the update": time.optimizer,
        "overhead": time.overhead,
    }


def by_axis(collectives: Sequence[Collective]) -> dict[str, float]:
    """Time of all collectives along each axis (s)."""
    found: dict[str, float] = {}
    for item in collectives:
        found[item.axis] = found.get(item.axis, 0.0) + item.duration
    return found


def _worse(price: Price, best: Price, aim: Aim) -> str:
    ours, theirs = aim.value(price), aim.value(best)
    share = (ours - theirs) / theirs if theirs else 0.0
    if aim.minimize == "time":
        return f"{format_seconds(ours - theirs)} ({share:.1%}) slower" if ours > theirs else "as fast"
    return f"{share:.1%} {_MORE[aim.minimize]}, {format_seconds(price.step)} per step"


def _items(pricer: HybridPricer, other: Layout, price: Price, chosen: Layout, best: Price) -> list[str]:
    ours, theirs = longest_items(price.time), longest_items(best.time)
    changes = sorted(((ours[name] - theirs[name], name) for name in ours), reverse=True)
    told = []
    for change, name in changes:
        if abs(change) < _WORTH_SAYING * best.step:
            continue
        verb = "adds" if change > 0 else "saves"
        told.append(
            f"{name} {verb} {format_seconds(abs(change))}{_where(pricer, other, price, chosen, best, name, change)}"
        )
    return told


def _where(
    pricer: HybridPricer, other: Layout, price: Price, chosen: Layout, best: Price, name: str, change: float
) -> str:
    """Along which axis the exchange changes most, and whether that axis now leaves the host."""
    if not name.startswith("exchange"):
        return ""
    ours, theirs = by_axis(price.collectives), by_axis(best.collectives)
    changes = {axis: ours.get(axis, 0.0) - theirs.get(axis, 0.0) for axis in {*ours, *theirs}}
    axis = max(changes, key=lambda one: changes[one] if change > 0 else -changes[one], default="")
    if not axis or axis not in AXES:
        return ""
    tiers = [_tier(pricer, layout, axis) for layout in (chosen, other)]
    if change > 0 and tiers[0] == "host" != tiers[1] and tiers[1]:
        return f" ({AXES[axis]} leaves the host)"
    return f" ({AXES[axis]})"


def _tier(pricer: HybridPricer, layout: Layout, axis: str) -> str:
    mesh = layout.mesh
    if axis == "islands":
        degree, stride = layout.islands, mesh.dp_replicate // layout.islands * layout.stride("dp_replicate")
    else:
        degree = mesh.num_shares * mesh.cp // layout.islands if axis == "data" else getattr(mesh, axis)
        among = ("dp_replicate", "dp_shard", "cp") if axis == "data" else (axis,)
        stride = layout.stride_among(*among)  # type: ignore[arg-type]
    host = min(pricer.hosts, key=lambda one: one.devices)
    return crossed_tier(pricer.cluster, host, Group(degree=degree, stride=stride))
