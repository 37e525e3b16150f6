"""What binds a layout, and what would make another one best: found by searching under changed conditions."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from meshwright.cost.hybrid import HybridPricer, Layout, Price
from meshwright.errors import HardwareError, UsageError
from meshwright.hardware import Cluster, hosts_like
from meshwright.plan._flips import scaled_links
from meshwright.plan._goal import Goal, Pins
from meshwright.plan._target import aim_of
from meshwright.plan.explanation._comparison import by_axis, by_example, gained, longest_items, unproven
from meshwright.plan.explanation._departures import exactly, meeting, ruled_out
from meshwright.plan.explanation._names import AXES, summary
from meshwright.plan.explanation._neighbours import with_memory
from meshwright.plan.search import ROUNDING, Aim, Effort, Found, Search, limits
from meshwright.units import Bytes, format_bytes, format_scaled, format_seconds

_MODERATE = Effort(priced=4, visited=60, total=1600)
_FACTORS = (1.25, 1.5, 2.0, 4.0, 8.0, 16.0)
_MUCH = 2.0  # memory and hardware are asked about twice over


def more_memory(pricer: HybridPricer, goal: Goal, aim: Aim, chosen: Layout) -> Found | None:
    """The best layout of as many workers with twice the memory, experts and the sequence split as they are."""
    doubled = replace(goal, memory_limit=round(goal.memory_limit * _MUCH))
    pinned = replace(doubled, pins=_near(goal, chosen, workers=chosen.mesh.num_workers))
    return Search(with_memory(pricer, _MUCH), pinned, aim, effort=_MODERATE).run().best


def _near(goal: Goal, chosen: Layout, *, workers: int) -> Pins:
    """The goal's pins, and what is not asked about again under changed conditions."""
    mesh = chosen.mesh
    return replace(goal.pins, workers=workers, expert=mesh.ep, context=mesh.cp, sequence=goal.pins.sequence)


def binding(pricer: HybridPricer, aim: Aim, chosen: Layout, best: Price, roomy: Found | None) -> str:
    """What keeps the step from being faster, or what is asked from being less, in a sentence with numbers."""
    first = meeting(chosen, best)
    if roomy is not None and aim.value(roomy.price) < 0.99 * aim.value(best) and roomy.price.peak > best.peak:
        stage, peak = _tightest(pricer, chosen)
        where = f" of stage {stage + 1}" if len(best.memory) > 1 else ""
        return first + (
            f"memory{where}: {format_bytes(peak)} are used; with {_more(pricer, roomy)} "
            f"{summary(roomy.layout)} would take {format_seconds(roomy.price.step)} instead of "
            f"{format_seconds(best.step)}{'' if aim.minimize == 'time' else ', ' + gained(roomy.price, best, aim)}"
        )
    if best.loading and best.loading >= best.step * (1 - ROUNDING):
        host, size = pricer.loading.most(chosen)
        return first + (
            f"loading of batches: a host reads {format_bytes(size)} for a step, which takes "
            f"{format_seconds(best.loading)} at its {format_scaled(host.loading, 'B/s')}"
        )
    items = longest_items(best.time)
    name = max(items, key=lambda one: items[one])
    detail = ""
    if name.startswith("exchange"):
        axes = by_axis(best.collectives)
        axis = max(axes, key=lambda one: axes[one])
        detail = f", most of it along {AXES.get(axis, axis)}"
    rate = ""
    if name == "computing":
        one = "worker" if pricer.exchanges.on_processors else "device"
        each = pricer.flops / best.step / chosen.mesh.num_workers
        rate = f", {format_scaled(each, 'FLOP/s')} per {one} over the whole step"
    return f"{first}{name}: {items[name] / best.step:.0%} of the step ({format_seconds(items[name])}{detail}{rate})"


def _tightest(pricer: HybridPricer, layout: Layout) -> tuple[int, Bytes]:
    """The stage of the worker whose device has least to spare, as a share of its memory, and what that worker holds."""
    held = [
        (items.peak / pricer.hosts[kind].device.memory, stage, items.peak) for stage, kind, items in pricer.held(layout)
    ]
    return max(held)[1:]


def _more(pricer: HybridPricer, roomy: Found) -> str:
    """How much memory a roomier layout takes; where devices differ, what each would have to have."""
    return format_bytes(roomy.price.peak) if len(pricer.hosts) == 1 else "twice the memory in every device"


def flips(
    pricer: HybridPricer, goal: Goal, aim: Aim, chosen: Found, rivals: Sequence[Found], roomy: Found | None
) -> Iterator[str]:
    """What would change the choice, and what twice the hardware would buy."""
    best = chosen.price
    yield from exactly(pricer, chosen.layout, best)
    yield from ruled_out(chosen.layout, goal)
    yield from _matrix_units(pricer, chosen)
    if roomy is not None and aim.value(roomy.price) < aim.value(best) and roomy.price.peak > best.peak:
        better = gained(roomy.price, best, aim)
        each = " per device" if len(pricer.hosts) == 1 else ""
        yield f"with {_more(pricer, roomy)}{each}: {summary(roomy.layout)}, {better}"
    yield from _links(pricer, aim, chosen, rivals)
    if chosen.price.loading < chosen.price.step * (1 - ROUNDING):
        yield _loading(pricer, chosen)
    yield from _batch(pricer, goal, chosen)
    yield from _hardware(pricer, goal, aim, chosen)


def _matrix_units(pricer: HybridPricer, chosen: Found) -> Iterator[str]:
    """What 32-bit products would take on matrix units, which torch leaves unused unless the script asks for them."""
    if "tf32" in pricer.graph.traits:
        return
    graph = replace(pricer.graph, traits=(*pricer.graph.traits, "tf32"))
    changed = HybridPricer(graph, pricer.cluster, correction=pricer.correction).price(chosen.layout)
    if changed.step < 0.99 * chosen.price.step:
        yield (
            "32-bit products in TF32, which torch uses only where the script says "
            f"torch.set_float32_matmul_precision('high'): this plan takes {format_seconds(changed.step)} a step"
        )


def _links(pricer: HybridPricer, aim: Aim, chosen: Found, rivals: Sequence[Found]) -> Iterator[str]:
    """The smallest change of all links at which one of the layouts that were looked at is better."""
    for word, sign in (("faster", 1.0), ("slower", -1.0)):
        for factor in _FACTORS:
            changed = HybridPricer(
                pricer.graph, scaled_links(pricer.cluster, factor**sign), correction=pricer.correction
            )
            own = _within(changed.price(chosen.layout), aim)
            values = [(_within(changed.price(rival.layout), aim), place) for place, rival in enumerate(rivals)]
            least = min(values, default=(own, 0))
            if least[0] < own * 0.999:
                yield (
                    f"links {factor:g} times {word}: {summary(rivals[least[1]].layout)} "
                    f"(of this plan and the {len(rivals)} beside it)"
                )
                break


def _within(price: Price, aim: Aim) -> float:
    """What is made small, of a layout within the limits; infinite beyond them."""
    return aim.value(price) if aim.allows(price) else float("inf")


def _loading(pricer: HybridPricer, chosen: Found) -> str:
    """How fast a host must load batches so that no step waits for them."""
    host, size = pricer.loading.most(chosen.layout)
    needed = f"a host that loads less than {format_scaled(size / chosen.price.step, 'B/s')}: steps wait for batches"
    if host.loading:
        return f"{needed}; it loads {format_scaled(host.loading, 'B/s')}"
    return f"{needed}; not priced, for the cluster's file does not say what a host loads (`loading`, B/s)"


def _batch(pricer: HybridPricer, goal: Goal, chosen: Found) -> Iterator[str]:
    """What twice the batch would change."""
    size = pricer.graph.batch_size
    graph = replace(pricer.graph, batch_size=2 * size)
    changed = HybridPricer(graph, pricer.cluster, correction=pricer.correction)
    pins = _near(goal, chosen.layout, workers=chosen.layout.mesh.num_workers)
    aim = aim_of(goal, graph)
    result = Search(changed, replace(goal, pins=pins), aim, effort=_MODERATE).run()
    longer = replace(chosen.layout, micro_batches=2 * chosen.layout.micro_batches)
    own = Found(layout=longer, price=changed.price(longer))
    possible = [one for one in (result.best, own if _fits(changed, goal, own) else None) if one is not None]
    possible = [one for one in possible if aim.allows(one.price)]
    if not possible:
        return
    found = min(possible, key=lambda one: _within(one.price, aim))
    same = replace(found.layout, replicas=(), micro_batches=1) == replace(chosen.layout, replicas=(), micro_batches=1)
    plan = "the same plan" if same else summary(found.layout)
    gain = by_example(found.price, chosen.price, aim)
    least = aim.value(result.best.price) * (1 - result.gap) if result.best is not None else 0.0
    gap = max(0.0, 1 - least / aim.value(found.price)) if least else 0.0
    yield f"a batch of {2 * size} instead of {size}: {plan}, {gain}{unproven(gap)}"


def _fits(pricer: HybridPricer, goal: Goal, found: Found) -> bool:
    """Whether every worker's memory is within what it may use, and the schedule takes so many micro-batches."""
    most = limits(pricer, goal, found.layout)
    return goal.pins.accumulation in (None, found.layout.micro_batches) and all(
        items.peak <= most[kind] for _, kind, items in pricer.held(found.layout)
    )


def _hardware(pricer: HybridPricer, goal: Goal, aim: Aim, chosen: Found) -> Iterator[str]:
    """What twice the hosts would buy."""
    pins = _near(goal, chosen.layout, workers=2 * chosen.layout.mesh.num_workers)
    try:
        doubled = HybridPricer(pricer.graph, _doubled(pricer), correction=pricer.correction)
        result = Search(doubled, replace(goal, pins=pins), aim, effort=_MODERATE).run()
    except (UsageError, HardwareError) as error:
        yield f"twice the hardware: not priced, for {error.fact}"
        return
    found = result.best
    if found is None:
        yield f"twice the hardware: nothing, a batch of {pricer.graph.batch_size} cannot be shared out further"
        return
    speedup = chosen.price.pace / found.price.pace
    dearer = found.price.money / chosen.price.money - 1 if chosen.price.money else 0.0
    cost = f", {dearer:+.1%} money per step" if chosen.price.money else ""
    yield f"twice the hardware: {summary(found.layout)}, {speedup:.2f} times as fast{cost}{unproven(result.gap)}"


def _doubled(pricer: HybridPricer) -> Cluster:
    """Twice the hosts; where nothing is said of a network between them, the one that such hosts come with.

    Raises:
        UsageError: the catalogue knows none.
    """
    cluster = pricer.cluster
    if len(cluster.hosts) == 1 and not any(link.tier == "network" for link in cluster.links):
        return hosts_like(cluster, 2 * cluster.hosts[0].count)
    hosts = (replace(host, count=2 * host.count) if host in pricer.hosts else host for host in cluster.hosts)
    return replace(cluster, hosts=tuple(hosts))
