"""When nothing fits: what takes the memory, and the nearest changes that would fit, each found by pricing it."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

from meshwright.cost import MemoryBreakdown, Pricer
from meshwright.errors import DoesNotFitError
from meshwright.hardware import Cluster
from meshwright.plan._goal import Goal, Pins
from meshwright.plan._layouts import training_hosts
from meshwright.plan._priced import Priced, price_all
from meshwright.units import format_bytes

# Pins that change how much memory a strategy takes.
_MEMORY_PINS = ("accumulation", "recompute", "sharding", "shards", "workers", "data", "shard", "threads")
_MOST_HOSTS = 4096


def does_not_fit(pricer: Pricer, goal: Goal, priced: Sequence[Priced]) -> DoesNotFitError:
    """The error that says what takes the memory and what would fit.

    Args:
        priced: every legal strategy; none of them fits.
    """
    least = _least(priced, shared=not _per_worker(pricer.cluster))
    peak = least.prediction.memory.peak
    share = f" for each of {least.strategy.num_workers} workers" if least.strategy.num_workers > 1 else ""
    return DoesNotFitError(
        f"{pricer.workload.graph.model} needs at least {format_bytes(peak)}{share}; "
        f"{format_bytes(least.memory_limit)} may be used",
        cause=f"{least.strategy.summary}: {itemised(least.prediction.memory)}",
        alternatives=list(_changes(pricer, goal, least)),
        command="meshwright plan SCRIPT, with one of these changes",
    )


def itemised(memory: MemoryBreakdown) -> str:
    """The items of a peak, largest first, those under a hundredth of it left out."""
    items = sorted(((getattr(memory, field.name), field.name) for field in fields(memory)), reverse=True)
    return ", ".join(f"{name} {format_bytes(size)}" for size, name in items if size * 100 >= max(1, memory.peak))


def _changes(pricer: Pricer, goal: Goal, least: Priced) -> Iterator[str]:
    yield from _without_pins(pricer, goal)
    yield from _smaller_batch(pricer, goal)
    yield from _more_devices(pricer, goal)
    total = least.prediction.memory.peak * (1 if _per_worker(pricer.cluster) else least.strategy.num_workers)
    unit = "device" if _per_worker(pricer.cluster) else "host"
    yield f"at least {format_bytes(total)} of memory per {unit}: {least.strategy.summary}"


def _without_pins(pricer: Pricer, goal: Goal) -> Iterator[str]:
    """What fits when one pin is left to the solver."""
    for name in _MEMORY_PINS:
        pinned = getattr(goal.pins, name)
        if pinned is None:
            continue
        best = _fitting(pricer, replace(goal, pins=replace(goal.pins, **{name: None})))
        if best is not None:
            peak = format_bytes(best.prediction.memory.peak)
            yield f"leave out {name} = {pinned}: {best.strategy.summary} needs {peak} per worker"


def _smaller_batch(pricer: Pricer, goal: Goal) -> Iterator[str]:
    """The largest global batch that fits, by bisection: memory never shrinks with the batch."""
    graph = pricer.workload.graph
    fits, too_large = 0, graph.batch_size
    best: Priced | None = None
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        smaller = Pricer(replace(graph, batch_size=middle), pricer.cluster, correction=pricer.correction)
        found = _fitting(smaller, goal)
        if found is None:
            too_large = middle
        else:
            fits, best = middle, found
    if best is not None:
        peak = format_bytes(best.prediction.memory.peak)
        change = f"a batch of {fits} examples instead of {graph.batch_size}"
        yield f"{change}: {best.strategy.summary} needs {peak} per worker"


def _more_devices(pricer: Pricer, goal: Goal) -> Iterator[str]:
    """The smallest doubling of the hosts with which sharding makes it fit."""
    cluster = pricer.cluster
    hosts = training_hosts(cluster)
    if len(hosts) > 1 or not any(link.tier == "network" for link in cluster.links):
        return
    count = hosts[0].count * 2
    while count <= _MOST_HOSTS:
        larger = replace(cluster, hosts=(replace(hosts[0], count=count),))
        best = _fitting(Pricer(pricer.workload.graph, larger, correction=pricer.correction), goal)
        if best is not None:
            peak = format_bytes(best.prediction.memory.peak)
            yield f"{count} hosts instead of {hosts[0].count}: {best.strategy.summary} needs {peak} per worker"
            return
        count *= 2


def _fitting(pricer: Pricer, goal: Goal) -> Priced | None:
    """The fastest strategy that fits; kernels that take no part in memory are left as they are."""
    narrowed = replace(goal, pins=_without_kernels(goal.pins))
    fitting = [item for item in price_all(pricer, narrowed) if item.fits]
    return min(fitting, key=lambda item: item.rank, default=None)


def _without_kernels(pins: Pins) -> Pins:
    return replace(
        pins,
        matrix_library=pins.matrix_library or "default",
        allocator=pins.allocator or "default",
        memory_format=pins.memory_format or "as_written",
        random=pins.random or "default",
        compiled=pins.compiled or False,
    )


def _least(priced: Sequence[Priced], *, shared: bool) -> Priced:
    """The strategy that exceeds its limit by least; together where the workers share a host's memory."""

    def excess(item: Priced) -> int:
        each = item.prediction.memory.peak - item.memory_limit
        return each * item.strategy.num_workers if shared else each

    return min(priced, key=lambda item: (excess(item), item.rank))


def _per_worker(cluster: Cluster) -> bool:
    """Whether each worker has a device's memory to itself."""
    return training_hosts(cluster)[0].device.kind != "cpu"
