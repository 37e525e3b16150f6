"""Why a pinned choice is not legal for this model, batch and cluster, with the values that are."""

from collections.abc import Iterator, Sequence

from meshwright.errors import PlanError
from meshwright.graph import Graph
from meshwright.hardware import Cluster
from meshwright.plan._goal import Goal
from meshwright.plan._layouts import training_hosts
from meshwright.plan._space import (
    allocators,
    couples_examples,
    matrix_libraries,
    memory_formats,
    optimizer_forms,
    recomputations,
)


def check_pins(graph: Graph, cluster: Cluster, goal: Goal) -> None:
    """Refuses pins that no strategy can follow.

    Raises:
        PlanError: a pin is outside what the model, the batch or the cluster allows; names the legal values.
    """
    for name, value, legal, cause in _rules(graph, cluster, goal):
        if value is not None and value not in legal:
            raise PlanError(
                f"{name} = {_shown(value)} is not possible here",
                cause=cause,
                alternatives=[f"legal values of {name}: {_listed(legal)}"],
                command=f"meshwright plan SCRIPT, without {name}",
            )
    _check_products(cluster, goal)


def _rules(graph: Graph, cluster: Cluster, goal: Goal) -> Iterator[tuple[str, object, Sequence, str]]:
    """Each pin with its legal values and what limits them."""
    pins, hosts = goal.pins, training_hosts(cluster)
    device, places = hosts[0].device, _places(cluster)
    unit = "cores" if device.kind == "cpu" else "accelerators"
    coupled = "batch_statistics" in graph.traits
    most = 1 if coupled else min(places, graph.batch_size)
    limit = f"{cluster.name} has {places} {unit} and the batch has {graph.batch_size} examples"
    yield (
        "workers",
        pins.workers,
        range(1, most + 1),
        ("the loss of an example depends on the others of its batch" if coupled else limit),
    )
    per_worker = (device.cores // (pins.workers or 1) if device.kind == "cpu" else 1) or 1
    yield (
        "threads",
        pins.threads,
        range(1, per_worker + 1),
        (f"a host has {device.cores} cores for {pins.workers or 1} worker(s)"),
    )
    share = graph.batch_size // (pins.workers or 1)
    yield (
        "accumulation",
        pins.accumulation,
        range(1, (1 if couples_examples(graph) else share) + 1),
        (
            "statistics are taken over the whole batch, which micro-batches would change"
            if couples_examples(graph)
            else f"a worker has {share} of the {graph.batch_size} examples"
        ),
    )
    yield (
        "recompute",
        pins.recompute,
        recomputations(graph),
        (
            "BatchNorm would count each batch twice in its running statistics"
            if graph.blocks
            else "the model has no repeated blocks"
        ),
    )
    yield (
        "matrix_library",
        pins.matrix_library,
        matrix_libraries(device),
        (f"oneDNN's matrices were not measured, or not exact, on {device.name}"),
    )
    yield "optimizer", pins.optimizer, optimizer_forms(graph), f"torch has no fused {graph.optimizer.name} here"
    yield "allocator", pins.allocator, allocators(device), f"memory is kept anyway or was not measured on {device.name}"
    yield (
        "memory_format",
        pins.memory_format,
        memory_formats(graph, device),
        ("the model has no convolutions, or their rate in that layout is not known"),
    )


def _check_products(cluster: Cluster, goal: Goal) -> None:
    """Pins that are legal one by one and contradict each other."""
    pins = goal.pins
    degrees = (pins.data or 1) * (pins.shard or 1)
    if pins.workers is not None and (pins.workers % degrees or (pins.data and pins.shard and degrees != pins.workers)):
        raise PlanError(
            f"data = {pins.data or 'any'} × shard = {pins.shard or 'any'} does not make workers = {pins.workers}",
            alternatives=[f"data × shard = {pins.workers}", "leave one of the three out"],
            command="meshwright plan SCRIPT",
        )
    if pins.sharding not in (None, "none") and pins.workers == 1:
        raise PlanError(
            f"sharding = {pins.sharding!r} needs at least 2 workers, and workers = 1",
            alternatives=["sharding = 'none'", f"workers = 2 to {_places(cluster)}"],
            command="meshwright plan SCRIPT",
        )


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
        cause="each is legal by itself, together they contradict each other",
        alternatives=[f"leave out {name}" for name in pinned],
        command="meshwright plan SCRIPT",
    )


def _places(cluster: Cluster) -> int:
    hosts = training_hosts(cluster)
    return sum(host.count * (host.device.cores if host.device.kind == "cpu" else host.devices) for host in hosts)


def _listed(legal: Sequence) -> str:
    if isinstance(legal, range):
        return f"1 to {legal.stop - 1}" if legal.stop > 2 else "1"
    return ", ".join(_shown(value) for value in legal)


def _shown(value: object) -> str:
    return f"{value!r}" if isinstance(value, str) else str(value)
