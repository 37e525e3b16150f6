"""Every legal strategy of a graph on a cluster: layouts × grids × micro-batches × recomputation × kernels × exchange.

The loops are nested from what changes a price most to what changes it least, one function per level, so that a bound
on a level's price can skip everything inside it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Literal, get_args

from meshwright.cost import (
    Batch,
    Compression,
    Exchange,
    Kernels,
    Mesh,
    Offload,
    Precision,
    Sharding,
    Strategy,
    TransportName,
    Worker,
    measured_transports,
)
from meshwright.graph import Graph
from meshwright.hardware import Cluster, Device
from meshwright.plan._goal import Goal
from meshwright.plan._layouts import divisors, doublings, layouts, training_hosts
from meshwright.plan._updates import ways_to_update
from meshwright.units import MIB, Bytes

# Buckets worth a comparison: small ones start the exchange earlier, large ones pay its latency less often.
_BUCKET_SIZES: tuple[Bytes, ...] = (4 * MIB, 25 * MIB)
_SMALL_BUCKETS: tuple[Bytes, ...] = (MIB // 4, MIB // 2, MIB, 2 * MIB)

# Data types that gradients are sent in where a lower precision is allowed. float16 loses small ones: only if pinned.
REDUCTIONS = ("as_written", "bfloat16")

# Connections between every two workers.
DIRECT: tuple[TransportName, ...] = ("direct", "direct_packed")

# What makes a step another one from batch to batch, so that there is no one program that could be split.
OBSTACLES = frozenset({"data_dependent", "batch_statistics"})
# Pins that split the model itself where they are above 1.
SPLITS = ("tensor", "context", "expert", "pipeline")

Shares = Callable[[tuple[Worker, ...]], tuple[int, ...]]


def strategies(graph: Graph, cluster: Cluster, goal: Goal, *, shares: Shares) -> Iterator[Strategy]:
    """Every legal strategy that agrees with the goal's pins and allowances.

    Args:
        shares: gives each worker's share of the batch, by the speed of its device.
    """
    for workers in layouts(cluster, goal.pins):
        if len(workers) <= graph.batch_size and not (len(workers) > 1 and "batch_statistics" in graph.traits):
            yield from _strategies_of_layout(graph, cluster, goal, workers, shares(workers))


def _strategies_of_layout(
    graph: Graph, cluster: Cluster, goal: Goal, workers: tuple[Worker, ...], shares: tuple[int, ...]
) -> Iterator[Strategy]:
    device = _device(cluster, workers[0])
    blocks = graph.block_paths
    for sharding, mesh in grids(len(workers), goal):
        for accumulation in accumulations(graph, shares, goal):
            for recomputed in _unless_pinned(goal.pins.recompute, recomputations(graph)):
                shape = Strategy(
                    workers=workers, mesh=mesh, sharding=sharding, recompute=blocks if recomputed == "all" else (),
                    batch=Batch(
                        size=graph.batch_size, shares=shares, accumulation=accumulation,
                        sharing=sharing(graph, workers, goal),
                    ),
                )  # fmt: skip
                for kernels, precision, exchange, offload in product(
                    kernel_choices(graph, device, goal),
                    precisions(device, goal, num_workers=len(workers)),
                    exchanges(cluster, shape, goal),
                    _unless_pinned(goal.pins.offload, offloads(graph, device)),
                ):
                    if not _go_together(sharding, precision, exchange):
                        continue
                    if may_offload(offload, sharding, mesh, compiled=kernels.compiled, recompute=recomputed):
                        yield replace(shape, kernels=kernels, precision=precision, exchange=exchange, offload=offload)


def grids(num_workers: int, goal: Goal) -> Iterator[tuple[Sharding, Mesh]]:
    """Sharding levels and meshes of this many workers.

    State and gradients are in shards over all workers; parameters also over part of them, in replicas.
    """
    pins = goal.pins
    levels: Sequence[Sharding] = get_args(Sharding) if pins.sharding is None else (pins.sharding,)
    for sharding in levels:
        sharded = divisors(num_workers) if sharding == "parameters" else (num_workers,)
        degrees = (1,) if sharding == "none" else tuple(degree for degree in sharded if degree > 1)
        for shard in degrees:
            mesh = Mesh(dp_replicate=num_workers // shard, dp_shard=shard)
            if pins.data in (None, mesh.dp_replicate) and pins.shard in (None, shard):
                yield sharding, mesh


def accumulations(graph: Graph, shares: tuple[int, ...], goal: Goal) -> tuple[int, ...]:
    """Counts of micro-batches: those of equal sizes, and doublings, so long as every worker has an example for each."""
    smallest = 1 if couples_examples(graph) else max(1, graph.batch_size * min(shares) // sum(shares))
    pinned = goal.pins.accumulation
    if pinned is None:
        return tuple(sorted({*divisors(smallest), *doublings(smallest)}))
    return (pinned,) if 1 <= pinned <= smallest else ()


def sharing(graph: Graph, workers: tuple[Worker, ...], goal: Goal) -> Literal["fixed", "adaptive"]:
    """Whether shares follow the workers' speed: between hosts, which differ and have other users.

    On one host they stay fixed, so that two runs give the same bits; so they do where examples are coupled, whose
    workers wait for each other inside the step, and on accelerators, whose times are not read in every step.
    """
    if goal.pins.sharing is not None:
        return goal.pins.sharing
    several = len({worker.host for worker in workers}) > 1
    on_cpu = all(worker.device == "cpu" for worker in workers)
    return "adaptive" if several and on_cpu and not couples_examples(graph) else "fixed"


def recomputations(graph: Graph) -> tuple[str, ...]:
    """Whether the blocks' activations are kept or computed again; BatchNorm would count a batch twice."""
    return ("none", "all") if graph.blocks and "batch_norm" not in graph.traits else ("none",)


def couples_examples(graph: Graph) -> bool:
    """Whether the loss of one example depends on the others of its micro-batch, so that a batch cannot be cut up."""
    return "batch_norm" in graph.traits or "batch_statistics" in graph.traits


def settled(goal: Goal, graph: Graph) -> Goal:
    """The goal with what the model leaves no choice about among its pins.

    A loss that couples examples stays on one worker, a step that is another one every time has no program that could be
    split, and BatchNorm would count a batch twice that is computed again.
    """
    traits, fixed = set(graph.traits), dict[str, Any]()
    if "batch_statistics" in traits:
        fixed["workers"] = 1
    if OBSTACLES & traits:
        fixed |= dict.fromkeys(SPLITS, 1)
    if "batch_norm" in traits:
        fixed["recompute"] = "none"
    open_ = {name: value for name, value in fixed.items() if getattr(goal.pins, name) is None}
    return replace(goal, pins=replace(goal.pins, **open_)) if open_ else goal


def kernel_choices(graph: Graph, device: Device, goal: Goal) -> tuple[Kernels, ...]:
    """Implementations of the same mathematics that this device and this model have."""
    pins, on_cpu = goal.pins, device.kind == "cpu"
    options = (
        _unless_pinned(pins.matrix_library, matrix_libraries(device)),
        _unless_pinned(pins.optimizer, optimizer_forms(graph)),
        _unless_pinned(pins.allocator, allocators(device)[-1:]),
        _unless_pinned(pins.memory_format, memory_formats(graph, device)),
        _unless_pinned(pins.random, mask_sources(graph, device)),
        _unless_pinned(pins.compiled, (False,) if on_cpu or not goal.steps else (False, True)),
    )
    names = ("matrix_library", "optimizer", "allocator", "memory_format", "random", "compiled")
    return tuple(Kernels(**dict(zip(names, values, strict=True))) for values in product(*options))


def matrix_libraries(device: Device) -> tuple[str, ...]:
    """torch's own choice, and oneDNN where its float32 matrices were measured here and found exact at every size."""
    rows = [row for row in device.matrix_rates if row.library == "onednn" and row.dtype == "float32"]
    exact = device.kind == "cpu" and bool(rows) and all(row.exact for row in rows)
    return ("default", "onednn") if exact else ("default",)


def optimizer_forms(graph: Graph) -> tuple[str, ...]:
    """The optimizer as the user made it, and torch's fused form where it has one."""
    return ("as_written", "fused") if graph.optimizer.fused else ("as_written",)


def allocators(device: Device) -> tuple[str, ...]:
    """Memory given back at every step or kept; an accelerator's allocator keeps it anyway.

    The last one is taken unless the other is pinned. A trial cannot compare the two: once memory was kept in a process,
    what is given back later in it is not what a fresh process would give back.
    """
    measured = any(row.kind == "allocation" for row in device.operation_rates)
    return ("default", "retained") if device.kind == "cpu" and measured else ("default",)


def memory_formats(graph: Graph, device: Device) -> tuple[str, ...]:
    """Layouts of images, where the model has convolutions and the other layout's rate is known."""
    measured = any(row.kind == "convolution" and row.variant == "channels_last" for row in device.operation_rates)
    offered = "convolution" in graph.traits and (measured or device.kind != "cpu")
    return ("as_written", "channels_last") if offered else ("as_written",)


def mask_sources(graph: Graph, device: Device) -> tuple[str, ...]:
    """torch's generator, and a faster one for the masks of dropout on a CPU."""
    return ("default", "sfc64") if device.kind == "cpu" and "random" in graph.traits else ("default",)


def offloads(graph: Graph, device: Device) -> tuple[Offload, ...]:
    """What may be kept in the host's memory: of accelerators, which have another one, where the way there is known."""
    known = {row.variant for row in device.operation_rates if row.kind == "copy"} >= {"to_device", "from_device"}
    if device.kind == "cpu" or not known:
        return ("none",)
    found: tuple[tuple[Offload, bool], ...] = (
        ("state", graph.optimizer.bytes_per_element > 0), ("activations", bool(graph.blocks)),
    )  # fmt: skip
    return ("none", *(name for name, is_there in found if is_there))


def may_offload(offload: Offload, sharding: Sharding, mesh: Mesh, *, compiled: bool, recompute: str | None) -> bool:
    """Whether a strategy's other choices go with what is kept in the host's memory.

    Args:
        compiled: whether blocks are.
        recompute: what is pinned; None: nothing.
    """
    if offload == "activations":
        return not (mesh.splits_the_model or compiled or recompute == "all")
    return offload == "none" or sharding != "parameters"


def precisions(device: Device, goal: Goal, *, num_workers: int) -> tuple[Precision, ...]:
    """The user's own data types; where allowed, bfloat16 compute where measured, and gradients sent in 16 bits."""
    if "precision" not in goal.allow:
        return (Precision(),)
    measured = any(row.dtype == "bfloat16" for row in device.matrix_rates)
    sent = ("as_written",) if num_workers == 1 else reductions(goal)
    return tuple(
        Precision(compute=compute, reduction=reduction)
        for compute in (("as_written", "bfloat16") if measured else ("as_written",))
        for reduction in sent
    )


def reductions(goal: Goal) -> tuple[str, ...]:
    """What gradients may be sent in: their own data type; where it is allowed, 16 bits."""
    return _unless_pinned(goal.pins.reduction, REDUCTIONS if "precision" in goal.allow else REDUCTIONS[:1])


def _go_together(sharding: Sharding, precision: Precision, exchange: Exchange) -> bool:
    """Whether the workers can follow: torch scatters shards and rounds nothing; shared memory carries values as are."""
    rounded, compressed = precision.reduction != "as_written", exchange.compression is not None
    if rounded and (compressed or sharding == "parameters"):
        return False
    return exchange.transport != "shared_memory" or not (rounded or (compressed and exchange.updates is None))


def compressions(sharding: Sharding, mesh: Mesh, goal: Goal) -> tuple[Compression | None, ...]:
    """Nothing; where it is allowed, what costs no loss that was seen; what does only where it is pinned."""
    pins = goal.pins
    if "compression" not in goal.allow or pins.compression == "none":
        return (None,)
    if sharding == "parameters" and (mesh.dp_replicate > 1 or pins.compression not in (None, "int8", "int4")):
        # shards of one copy travel in blocks, and in no other lossy way
        return (None,) if pins.compression is None else ()
    if pins.compression is None:
        return (None, Compression(method="int8"))
    usual = Compression(method=pins.compression)
    rank, share = pins.compression_rank or usual.rank, pins.compression_share or usual.share
    return (replace(usual, rank=rank, share=share),)


def exchanges(cluster: Cluster, shape: Strategy, goal: Goal) -> tuple[Exchange, ...]:
    """Transports and bucket sizes; a single worker exchanges nothing."""
    pins = goal.pins
    if shape.num_workers == 1:
        return (Exchange() if pins.transport is None else Exchange(transport=pins.transport),)
    sizes = _unless_pinned(pins.bucket_size, bucket_sizes(cluster, shape))
    num_hosts, on_processors = len({worker.host for worker in shape.workers}), shape.workers[0].device == "cpu"
    ways = ways_to_update(shape.mesh, shape.sharding, goal, num_hosts=num_hosts, on_processors=on_processors)
    return tuple(
        Exchange(transport=transport, bucket_size=size, compression=compression, updates=updates)
        for transport in _unless_pinned(pins.transport, transports(cluster, shape))
        if pins.transport is None or transport in possible_transports(cluster, shape)
        for size in sizes
        for compression in compressions(shape.sharding, shape.mesh, goal)
        for updates in ways
        if pins.transport == transport or transport not in DIRECT or (compression is None and updates is None)
        if compression is None or updates is None or updates.kind in ("local", pins.updates)
    )


def bucket_sizes(cluster: Cluster, shape: Strategy) -> tuple[Bytes, ...]:
    """Buckets worth a comparison; between hosts also the smallest one whose latency is a twentieth of its time."""
    if len({worker.host for worker in shape.workers}) == 1:
        return _BUCKET_SIZES
    links = [link for link in cluster.links if link.tier in ("network", "rack")]
    if not links:
        return _BUCKET_SIZES
    worthwhile = 20 * links[0].latency * links[0].bandwidth
    smallest = next((size for size in _SMALL_BUCKETS if size >= worthwhile), None)
    return _BUCKET_SIZES if smallest is None else (smallest, *_BUCKET_SIZES)


def transports(cluster: Cluster, shape: Strategy) -> tuple[TransportName, ...]:
    """What is worth a comparison of what can carry gradients between these workers.

    Direct connections between hosts of one worker each: inside a host memory is faster, and of several workers of a
    host one speaks for all. What is compressed, and islands that meet, have connections of their own.
    """
    num_hosts = len({worker.host for worker in shape.workers})
    found = possible_transports(cluster, shape)
    return found if 1 < num_hosts == shape.num_workers else tuple(name for name in found if name not in DIRECT)


def possible_transports(cluster: Cluster, shape: Strategy) -> tuple[TransportName, ...]:
    """What can carry gradients between these workers.

    Shared memory only where it was measured: alone inside one host, between several hosts of several workers as the
    lower of two levels. `fully_shard` brings its own process group.
    """
    if shape.workers[0].device != "cpu":
        return ("nccl",)
    if shape.sharding == "parameters":
        return ("gloo",)
    num_hosts = len({worker.host for worker in shape.workers})
    if "shared_memory" not in measured_transports(cluster) or 1 < num_hosts == shape.num_workers:
        return ("gloo", *DIRECT)
    return ("gloo", "shared_memory", *DIRECT) if num_hosts == 1 else ("gloo", "hierarchical", *DIRECT)


def _unless_pinned(pinned: object, options: Sequence) -> tuple:
    return tuple(options) if pinned is None else (pinned,)


def _device(cluster: Cluster, worker: Worker) -> Device:
    kind = worker.device.split(":")[0]
    return next(host.device for host in training_hosts(cluster) if host.device.kind == kind)
