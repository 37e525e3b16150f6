"""Why a pinned choice is not legal for this model, batch and cluster, with the values that are."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import get_args

from meshwright.cost import Allowance, CompressionMethod, Schedule, Sharding, UpdatesKind, measured_transports
from meshwright.errors import PlanError
from meshwright.graph import Graph
from meshwright.hardware import Cluster, Device
from meshwright.plan._axis_order import check_order
from meshwright.plan._goal import Goal, Pins
from meshwright.plan._layouts import doublings, training_hosts
from meshwright.plan._space import (
    DIRECT,
    allocators,
    couples_examples,
    mask_sources,
    matrix_libraries,
    memory_formats,
    offloads,
    optimizer_forms,
    recomputations,
)
from meshwright.plan._split_legality import Rule, check_split_exchange, split_rules

# Choices that only count beside a departure from the script's mathematics: what has to be allowed, and the value that
# departs from nothing.
_PARTS_OF_DEPARTURES: dict[str, tuple[Allowance, float]] = {
    "compression_rank": ("compression", 0), "compression_share": ("compression", 1.0),
    "interval": ("staleness", 1), "islands": ("staleness", 1), "outer_rate": ("staleness", 1.0),
    "outer_momentum": ("staleness", 0.0), "fragments": ("staleness", 1), "delay": ("staleness", 0),
}  # fmt: skip


def check_pins(graph: Graph, cluster: Cluster, goal: Goal) -> None:
    """Refuses pins that no strategy can follow.

    Raises:
        PlanError: a pin is outside what the model, the batch or the cluster allows; names the legal values.
    """
    for rule in _rules(graph, cluster, goal):
        value = getattr(goal.pins, rule.name)
        if value is not None and value not in rule.legal:
            raise PlanError(
                f"{rule.name} = {_shown(value)} is not possible here",
                cause=rule.cause,
                alternatives=[f"legal values of {rule.name}: {_listed(rule.legal)}"],
                command=f"meshwright plan SCRIPT, without {rule.name}",
            )
    check_order(goal.pins)
    _check_shards(goal.pins, cluster)
    _check_products(cluster, goal)


def _check_shards(pins: Pins, cluster: Cluster) -> None:
    """Sizes of shards, whole numbers, of something that is in shards.

    Raises:
        PlanError: they are not.
    """
    if pins.shards in (None, "equal"):
        return
    sizes = pins.shards.split(":")
    if len(sizes) < 2 or not all(size.isdecimal() for size in sizes) or not any(map(int, sizes)):
        raise PlanError(
            f"shards = {pins.shards!r} are no sizes",
            cause="sizes are whole numbers, one for each kind of device elsewhere, one for each data rank here",
            alternatives=["--set shards=equal", "--set shards=3:1"],
            command="meshwright plan SCRIPT, without shards",
        )
    kinds = len(training_hosts(cluster))
    if not cluster.identity and len(sizes) > max(1, kinds):
        raise PlanError(
            f"shards = {pins.shards!r} are {len(sizes)} sizes, and {cluster.name} has {kinds} kind"
            f"{'s' if kinds > 1 else ''} of devices",
            cause="elsewhere sizes are those of the kinds of devices, in the order of the cluster's hosts",
            alternatives=["--set shards=equal"],
            command="meshwright plan SCRIPT, without shards",
        )
    if pins.sharding == "none" or (pins.data or 1) > 1 or (pins.expert or 1) > 1:
        other = next(name for name in ("data", "expert", "sharding") if getattr(pins, name) not in (None, 1))
        raise PlanError(
            f"shards = {pins.shards!r} with {other} = {_shown(getattr(pins, other))}",
            cause="unequal shards are those of one copy, of what all data ranks have",
            alternatives=["--set shards=equal", f"leave out {other}"],
            command="meshwright plan SCRIPT",
        )


def _rules(graph: Graph, cluster: Cluster, goal: Goal) -> Iterator[Rule]:
    pins = goal.pins
    yield from _layout_rules(graph, cluster, pins)
    yield from split_rules(graph, places=_places(cluster))
    yield from _batch_rules(graph, pins)
    yield from _exchange_rules(cluster)
    yield from _lossy_rules(goal.allow)
    yield from _kernel_rules(graph, training_hosts(cluster)[0].device)
    yield Rule(
        name="offload",
        legal=offloads(graph, training_hosts(cluster)[0].device),
        cause="a processor's memory is the host's, an optimizer without state and a model without blocks have nothing "
        "to move, and copies to the host have to be known by their rate; parameters stay, for torch would update those "
        "that do not with the processor's kernels, to other bits",
    )


def _layout_rules(graph: Graph, cluster: Cluster, pins: Pins) -> Iterator[Rule]:
    device, places = training_hosts(cluster)[0].device, _places(cluster)
    on_cpu, workers = device.kind == "cpu", pins.workers or 1
    unit = "cores" if on_cpu else "accelerators"
    coupled = "batch_statistics" in graph.traits
    most = 1 if coupled else places if _can_be_split(graph) else min(places, graph.batch_size)
    yield Rule(
        name="workers",
        legal=range(1, most + 1),
        cause="the loss of an example depends on the others of its batch"
        if coupled
        else f"{cluster.name} has {places} {unit} and the batch has {graph.batch_size} examples",
    )
    yield Rule(
        name="threads",
        legal=range(1, max(1, device.cores // workers if on_cpu else 1) + 1),
        cause=f"a host has {device.cores} core{'s' if device.cores > 1 else ''} for {workers} worker"
        f"{'s' if workers > 1 else ''}"
        if on_cpu
        else "threads share a processor's cores; a worker with an accelerator has one",
    )
    for name in ("data", "shard"):
        yield Rule(
            name=name, legal=range(1, most + 1), cause=f"there can be {most} worker{'s' if most > 1 else ''} here"
        )
    yield Rule(
        name="sharing",
        legal=("fixed", "adaptive") if on_cpu else ("fixed",),
        cause="shares follow the times of every step, which are not read on accelerators",
    )
    yield Rule(
        name="sharding",
        legal=get_args(Sharding) if most > 1 else ("none",),
        cause="there can be one worker only, which has nobody to share with",
    )


def _can_be_split(graph: Graph) -> bool:
    """Whether there can be more workers than examples."""
    splits = graph.splits
    return splits is not None and bool(splits.tensor or splits.context or splits.expert or splits.cuts)


def _batch_rules(graph: Graph, pins: Pins) -> Iterator[Rule]:
    share = graph.batch_size // (pins.workers or 1)
    yield Rule(
        name="accumulation",
        legal=range(1, (1 if couples_examples(graph) else share) + 1),
        cause="statistics are taken over the whole batch, which micro-batches would change"
        if couples_examples(graph)
        else f"a worker has {share} of the {graph.batch_size} examples",
    )
    yield Rule(
        name="recompute",
        legal=recomputations(graph),
        cause="BatchNorm would count each batch twice in its running statistics"
        if graph.blocks
        else "the model has no repeated blocks",
    )


def _exchange_rules(cluster: Cluster) -> Iterator[Rule]:
    on_cpu = training_hosts(cluster)[0].device.kind == "cpu"
    shared = "shared_memory" in measured_transports(cluster)
    yield Rule(
        name="transport",
        legal=("nccl",) if not on_cpu else ("gloo", *(("shared_memory", "hierarchical") if shared else ()), *DIRECT),
        cause=f"nothing else joins the workers of {cluster.name}",
    )


def _lossy_rules(allow: Sequence[Allowance]) -> Iterator[Rule]:
    """What changes the gradients, only where it was allowed by name."""
    cause = "it changes the mathematics, which is permitted by name only: --allow {}"
    yield Rule(
        name="reduction",
        legal=("as_written", "bfloat16", "float16") if "precision" in allow else ("as_written",),
        cause=cause.format("precision"),
    )
    yield Rule(
        name="compression",
        legal=("none", *get_args(CompressionMethod)) if "compression" in allow else ("none",),
        cause=cause.format("compression"),
    )
    if "staleness" not in allow:
        yield Rule(
            name="schedule",
            legal=tuple(name for name in get_args(Schedule) if name != "asynchronous"),
            cause=cause.format("staleness"),
        )
    for name, (allowance, neutral) in _PARTS_OF_DEPARTURES.items():
        if allowance not in allow:
            yield Rule(name=name, legal=(neutral,), cause=cause.format(allowance))
    yield Rule(
        name="updates",
        legal=("every_step", *get_args(UpdatesKind)) if "staleness" in allow else ("every_step",),
        cause=cause.format("staleness"),
    )


def _kernel_rules(graph: Graph, device: Device) -> Iterator[Rule]:
    name = device.name
    yield Rule(
        name="matrix_library",
        legal=matrix_libraries(device),
        cause=f"oneDNN's matrices were not measured, or not exact, on {name}",
    )
    yield Rule(name="optimizer", legal=optimizer_forms(graph), cause=f"torch has no fused {graph.optimizer.name} here")
    yield Rule(name="allocator", legal=allocators(device), cause=f"memory is kept anyway or was not measured on {name}")
    yield Rule(
        name="memory_format",
        legal=memory_formats(graph, device),
        cause="the model has no convolutions, or their rate in that layout is not known",
    )
    yield Rule(name="random", legal=mask_sources(graph, device), cause="the model draws no masks, or not on a CPU")


def _check_products(cluster: Cluster, goal: Goal) -> None:
    """Pins that are legal one by one and contradict each other."""
    pins = goal.pins
    split = (pins.tensor or 1) * (pins.context or 1) * (pins.pipeline or 1)
    degrees = _degrees(pins)
    if pins.workers is not None and (pins.workers % degrees or (pins.data and pins.shard and degrees != pins.workers)):
        each = f" of {split} workers each" if split > 1 else ""
        raise PlanError(
            f"data = {pins.data or 'any'} × shard = {pins.shard or 'any'}{each} does not make workers = {pins.workers}",
            alternatives=[f"data × shard = {pins.workers // split}", "leave one of the three out"],
            command="meshwright plan SCRIPT",
        )
    if degrees > _places(cluster):
        pinned = {name: getattr(pins, name) or 1 for name in ("pipeline", "data", "shard", "context", "tensor")}
        product = " × ".join(f"{name} = {degree}" for name, degree in pinned.items() if degree > 1)
        raise PlanError(
            f"{product} takes {degrees} workers, and {cluster.name} has room for {_places(cluster)}",
            cause="a worker takes an accelerator, or at least one core",
            alternatives=["smaller degrees", "plan for more: --cluster FILE, with more hosts or cores"],
            command="meshwright plan SCRIPT",
        )
    if pins.sharding not in (None, "none") and pins.workers == 1:
        raise PlanError(
            f"sharding = {pins.sharding!r} needs at least 2 workers, and workers = 1",
            alternatives=["sharding = 'none'", f"workers = 2 to {_places(cluster)}"],
            command="meshwright plan SCRIPT",
        )
    check_split_exchange(pins)


def no_strategy(graph: Graph, cluster: Cluster, goal: Goal) -> PlanError:
    """The error for pins that leave nothing to choose from, though each is legal by itself."""
    pinned = {
        name: getattr(goal.pins, name)
        for name in goal.pins.__dataclass_fields__
        if getattr(goal.pins, name) is not None
    }
    return PlanError(
        f"no strategy of {graph.model} on {cluster.name} agrees with all of: "
        + ", ".join(f"{name} = {_shown(value)}" for name, value in pinned.items()),
        cause=_why_none(cluster, goal.pins),
        alternatives=[*_other_workers(cluster, goal.pins), *(f"leave out {name}" for name in pinned)],
        command="meshwright plan SCRIPT",
    )


def _why_none(cluster: Cluster, pins: Pins) -> str:
    if not _divides(cluster, pins):
        return (
            f"where nothing is pinned, {', '.join(map(str, doublings(_places(cluster))))} workers are looked at, and "
            f"{_degrees(pins)} divides none of them"
        )
    return "each is legal by itself, together they contradict each other"


def _other_workers(cluster: Cluster, pins: Pins) -> list[str]:
    """The most workers that the pinned degrees divide, where they divide none that are looked at."""
    degrees = _degrees(pins)
    return [] if _divides(cluster, pins) else [f"--set workers={_places(cluster) // degrees * degrees}"]


def _divides(cluster: Cluster, pins: Pins) -> bool:
    numbers = (pins.workers,) if pins.workers is not None else doublings(_places(cluster))
    return any(number % _degrees(pins) == 0 for number in numbers)


def _degrees(pins: Pins) -> int:
    """Product of the pinned degrees."""
    return prod(getattr(pins, name) or 1 for name in ("data", "shard", "tensor", "context", "pipeline"))


def _places(cluster: Cluster) -> int:
    hosts = training_hosts(cluster)
    return sum(host.count * (host.device.cores if host.device.kind == "cpu" else host.devices) for host in hosts)


def _listed(legal: Sequence) -> str:
    if isinstance(legal, range):
        return f"1 to {legal.stop - 1}" if legal.stop > 2 else "1"
    return ", ".join(_shown(value) for value in legal)


def _shown(value: object) -> str:
    return f"{value!r}" if isinstance(value, str) else str(value)
