"""A published row as the planner sees a user's script: a captured graph, a cluster and a layout, priced by them."""

from collections.abc import Sequence
from dataclasses import replace

from meshwright.cost import Exchange, Kernels, MemoryBreakdown, Mesh, Precision
from meshwright.cost.accelerator import calibration, layers_per_worker
from meshwright.cost.hybrid import HybridPricer, Layout, Replica
from meshwright.cost.memory import SCORES_SHARE, Arrangement, Conventions
from meshwright.graph import Graph
from meshwright.hardware import Cluster, Host, Link
from published_memory import row_arrangement, row_conventions
from published_model import Writing, captured
from published_rows import PublishedRow
from published_setup import device_of_row, framework_class, links_of, stated_layers, topology_of_row

_PARAMETER_BYTES = 2
_WRITTEN = {"float8_e4m3fn": "bfloat16", "tfloat32": "float32"}


def by_planner(row: PublishedRow) -> tuple[float, float, float]:
    """Low, expected and high step time that the planner would give a row's strategy (s).

    Raises:
        UsageError: the row's model cannot be written for the capture.
    """
    pricer = _pricer(graph_of_row(row), cluster_of_row(row), framework_class(row.framework))
    step = pricer.price(layout_of_row(row)).step
    low, high = pricer.devices.interval()
    return step * low, step, step * high


def peak_by_planner(row: PublishedRow) -> int:
    """Peak that the planner would give a row's strategy, of the worker that its source reports (B).

    What a worker holds, how long and on which stage is the planner's. Facts of the framework are how wide parameters,
    gradients and optimizer state are kept, what its context takes, and the allocator's gaps.

    Raises:
        UsageError: the row's model cannot be written for the capture.
    """
    own = row_conventions(row)
    width = 4 if _WRITTEN.get(row.dtype, row.dtype) == "float32" else 2
    pricer = _pricer(graph_of_row(row), cluster_of_row(row), framework_class(row.framework), state=own.optimizer)
    workers = [
        _as_kept(
            replace(
                items,
                context=own.fixed,
                allocator=0,
                parameters=round(items.parameters * own.parameter / width),
                gradients=round(items.gradients * (own.gradient + own.produced) / width),
            ),
            own,
        )
        for items in pricer.price(layout_of_row(row)).memory
    ]
    return workers[0] if own.seen == "first" else max(workers)


def _as_kept(items: MemoryBreakdown, own: Conventions) -> int:
    """A worker's peak with the gaps that its framework's allocator leaves (B)."""
    state = items.parameters + items.gradients + items.optimizer
    return round(items.peak + (own.activations - 1) * items.activations + (own.state - 1) * state)


def graph_of_row(row: PublishedRow) -> Graph:
    """A row's model as its framework writes it."""
    own = row_conventions(row)
    dtype = _WRITTEN.get(row.dtype, row.dtype)
    partly = row.recomputation == "selective"
    again = row_arrangement(row, own).computed_again
    if again:
        partly = sum(again) / len(again) > SCORES_SHARE / 2
    writing = Writing(fused=row.fused_attention, dropout=own.dropout == "on", again=own.selective if partly else "none")
    return captured(row.model, dtype, writing)


def layout_of_row(row: PublishedRow) -> Layout:
    """A row's strategy, its stages cut where its framework cuts them."""
    sharded = row.sharding != "none"
    stages = row.pp * row.virtual if row.pp > 1 else 1
    arrangement = row_arrangement(row, row_conventions(row))
    counts: Sequence[float] = layers_per_worker(row.model, stages, framework_class(row.framework))[0]
    if stages == row.pp and (stated := stated_layers(row)):
        counts = stated
    ends = [round(sum(counts[: stage + 1])) for stage in range(stages)]
    bounds = (0, *(1 + end for end in ends[:-1]))
    return Layout(
        mesh=Mesh(
            pp=row.pp, dp_replicate=1 if sharded else row.dp, dp_shard=row.dp if sharded else 1, cp=row.cp,
            ep=row.ep, tp=row.tp,
        ),
        replicas=(Replica(count=row.dp, kinds=(0,) * row.pp, examples=row.micro_batch),),
        sharding=row.sharding,
        sequence="split" if row.sequence_parallel else "whole",
        micro_batches=row.micro_batches,
        schedule="interleaved" if stages > row.pp else "1f1b",
        bounds=bounds,
        recomputed=_recomputed(row, arrangement, ends),
        kernels=Kernels(compiled=row.compiled),
        precision=Precision(compute=row.dtype if row.dtype == "float8_e4m3fn" else "as_written"),
        exchange=Exchange(transport="nccl", bucket_size=_bucket(row)),
    )  # fmt: skip


def _recomputed(row: PublishedRow, arrangement: Arrangement, ends: Sequence[int]) -> tuple[int, ...]:
    """Layers that are computed again whole; of each stage those that are left once all scores are."""
    if row.recomputation == "full":
        return tuple(range(1, row.model.layers + 1))
    begins = (0, *ends[:-1])
    return tuple(
        1 + layer
        for begin, end, share in zip(begins, ends, arrangement.computed_again, strict=False)
        for layer in range(begin, begin + round((end - begin) * max(0.0, share - SCORES_SHARE) / (1 - SCORES_SHARE)))
    )


def _pricer(graph: Graph, cluster: Cluster, framework: str, *, state: float = 8.0) -> HybridPricer:
    # Two states of 4 bytes, and a master copy, where parameters have 2.
    optimizer = replace(graph.optimizer, bytes_per_element=max(state, graph.optimizer.bytes_per_element))
    known = calibration()
    habits = known.frameworks.get(framework) or known.frameworks["other"]
    return HybridPricer(replace(graph, optimizer=optimizer), cluster, habits=habits)


def cluster_of_row(row: PublishedRow) -> Cluster:
    """A row's hosts and links."""
    link, network, latency, domain = links_of(row)
    hosts = max(1, row.num_devices // domain)
    links = [Link(tier="host", latency=0.0, bandwidth=link, topology=topology_of_row(row))]
    if hosts > 1:
        links.append(Link(tier="network", latency=latency, bandwidth=network * domain))
    host = Host(name="node", count=hosts, device=device_of_row(row.device), devices=domain)
    return Cluster(name="published", hosts=(host,), links=tuple(links))


def _bucket(row: PublishedRow) -> int:
    """Gradients that a framework sends at once (B)."""
    known = calibration()
    habits = known.frameworks.get(framework_class(row.framework)) or known.frameworks["other"]
    whole = max(known.network.bucket, habits.bucket_per_rank * row.dp)
    return round(whole * habits.gradient_bytes / _PARAMETER_BYTES)
