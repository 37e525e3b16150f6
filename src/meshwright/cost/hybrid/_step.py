"""The time of a hybrid strategy's step: units' times make stages, stages a pipeline, and then gradients and updates."""

from dataclasses import dataclass

import numpy as np

from meshwright.cost._prediction import Collective, TimeBreakdown
from meshwright.cost._workload import Column
from meshwright.cost.hybrid._exchanges import Exchanges, UnitExchange
from meshwright.cost.hybrid._held import Stages
from meshwright.cost.hybrid._layout import Layout
from meshwright.cost.hybrid._pieces import Pieces, Weights
from meshwright.cost.hybrid._pipeline_time import spans
from meshwright.units import Seconds

# The step engine's own Python for one micro-batch (as in `_pricing`).
ENGINE: Seconds = 9e-6
_LOSS_SIZE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTimes:
    """One micro-batch on every kind of unit and stage.

    Args:
        forward: of each kind of unit, with its exchange (s).
        backward: of each kind of unit, with its exchange, without recomputation (s).
        exposed_forward: exchange in `forward` that nothing hides (s).
        exposed_backward: exchange in `backward` that nothing hides (s).
    """

    forward: Column
    backward: Column
    exposed_forward: Column
    exposed_backward: Column


def unit_times(
    layout: Layout, exchanges: Exchanges, listed: tuple[UnitExchange, ...], weights: Weights, pieces: Pieces
) -> StageTimes:
    """What a micro-batch takes on one unit of each kind, collectives included."""
    exposed_forward, exposed_backward = np.zeros_like(pieces.forward), np.zeros_like(pieces.forward)
    for item in listed:
        beside = pieces.attention if item.hideable else 0.0
        exposed_forward = exposed_forward + np.maximum(0.0, item.forward - beside)
        exposed_backward = exposed_backward + np.maximum(0.0, item.backward - 2 * beside)
    if layout.sharding == "parameters" and layout.mesh.dp_shard > 1:
        gathered, scattered = sharded_times(layout, exchanges, weights)
        exposed_forward = exposed_forward + np.maximum(0.0, gathered - pieces.forward)
        exposed_backward = exposed_backward + np.maximum(0.0, gathered + scattered - pieces.backward)
    return StageTimes(
        forward=pieces.forward + exposed_forward,
        backward=pieces.backward + exposed_backward,
        exposed_forward=exposed_forward,
        exposed_backward=exposed_backward,
    )


def sharded_times(layout: Layout, exchanges: Exchanges, weights: Weights) -> tuple[Column, Column]:
    """Gathering the parameters of one unit of each kind, and scattering its gradients (s)."""
    degree, stride = layout.mesh.dp_shard, layout.stride("dp_shard")
    gather = exchanges.cost(layout, "all_gather", degree, stride)
    scatter = exchanges.cost(layout, "reduce_scatter", degree, stride)
    there = weights.parameters > 0
    return (
        there * (gather.latency + weights.parameters / gather.bandwidth),
        there * (scatter.latency + weights.gradients / scatter.bandwidth),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Synchronised:
    """What follows the last backward of one worker of the pipeline.

    Args:
        exposed: exchange of gradients and updated parameters that nothing hides (s).
        collectives: what is exchanged.
    """

    exposed: Seconds
    collectives: tuple[Collective, ...]


def synchronised(
    layout: Layout, exchanges: Exchanges, gradients: float, expert: float, *, window: Seconds
) -> Synchronised:
    """Gradients summed over the data axes once a step, beside the last micro-batch's backward.

    Args:
        gradients: bytes on one worker.
        expert: of them, those of experts, of which there are fewer replicas.
        window: that backward (s); 0 where nothing can be hidden behind it.
    """
    mesh = layout.mesh
    replicate, shard, context = mesh.dp_replicate, mesh.dp_shard, mesh.cp
    found: list[Collective] = []

    def add(name: str, axis: str, degree: int, step: int, size: float) -> None:
        if degree == 1 or size <= 0:
            return
        cost = exchanges.cost(layout, name, degree, step)
        calls = max(1, round(size / layout.exchange.bucket_size))
        duration = calls * cost.latency + size / cost.bandwidth
        found.append(Collective(name=name, axis=axis, count=calls, size=round(size), duration=duration))

    common = gradients - expert
    step = layout.stride("cp") if context > 1 else layout.stride("dp_shard")
    if layout.sharding == "none":
        add("all_reduce", "data", replicate * shard * context, step, common)
        add("all_reduce", "data", replicate * shard * context // mesh.ep, step * mesh.ep, expert)
    else:
        if layout.sharding != "parameters":
            add("reduce_scatter", "dp_shard", shard, layout.stride("dp_shard"), gradients)
        add("all_reduce", "cp", context, layout.stride("cp"), gradients / shard)
        add("all_reduce", "dp_replicate", replicate, layout.stride("dp_replicate"), gradients / shard)
    total = sum(item.duration for item in found)
    tail = total * min(1.0, layout.exchange.bucket_size / max(1.0, gradients))
    exposed = max(tail, total - window) if layout.exchange.overlap else total
    if layout.sharding in ("optimizer", "gradients"):
        add("all_gather", "dp_shard", shard, layout.stride("dp_shard"), gradients)
        exposed += found[-1].duration if shard > 1 else 0.0
    loss = exchanges.cost(layout, "all_reduce", mesh.num_workers, 1).time(_LOSS_SIZE)
    return Synchronised(exposed=exposed + loss, collectives=tuple(found))


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A pipeline's run through all micro-batches, before gradients are exchanged.

    Args:
        ends: when each worker has done its last backward (s).
        forward: computing of each worker (s).
        backward: likewise, without recomputation.
        recompute: likewise.
        exposed: exchange in them that nothing hides (s).
        last: the last micro-batch's backward on each worker (s).
    """

    ends: tuple[Seconds, ...]
    forward: Column
    backward: Column
    recompute: Column
    exposed: Column
    last: Column


def run_of(layout: Layout, stages: Stages, kinds: list[tuple[Pieces, StageTimes]], transfers: list[Seconds]) -> Run:
    """Runs the micro-batches through the stages.

    Args:
        kinds: pieces and times for every worker of the pipeline, by its place.
        transfers: over every cut (s).
    """
    workers, count = stages.workers, layout.micro_batches
    place = np.arange(len(stages.units)) % workers

    def total(values: list[Column], units: Column) -> Column:
        return np.einsum("sk,sk->s", units, np.stack(values)[place])

    forward = total([times.forward for _, times in kinds], stages.units)
    again = total([times.forward for _, times in kinds], stages.again)
    backward = total([times.backward for _, times in kinds], stages.units)
    hidden_again = total([times.exposed_forward for _, times in kinds], stages.again)
    exposed = total([times.exposed_forward + times.exposed_backward for _, times in kinds], stages.units)
    computing = total([pieces.forward for pieces, _ in kinds], stages.units)
    differentiating = total([pieces.backward for pieces, _ in kinds], stages.units)
    ends = spans(layout.form, forward.tolist(), (backward + again).tolist(), transfers)
    return Run(
        ends=ends,
        forward=count * stages.per_worker(computing),
        backward=count * stages.per_worker(differentiating),
        recompute=count * stages.per_worker(again - hidden_again),
        exposed=count * stages.per_worker(exposed + hidden_again),
        last=stages.per_worker(backward + again),
    )


def broken_down(
    run: Run, rank: int, *, end: Seconds, exposed: Seconds, optimizer: Seconds, overhead: Seconds, factor: float
) -> TimeBreakdown:
    """Where the time of the worker that ends last goes; what nothing accounts for is waiting.

    Args:
        end: of the step (s).
        exposed: exchange after its last backward (s).
        factor: correction of every item.
    """
    busy = float(run.forward[rank] + run.backward[rank] + run.recompute[rank] + run.exposed[rank])
    return TimeBreakdown(
        forward=factor * float(run.forward[rank]),
        backward=factor * float(run.backward[rank]),
        recompute=factor * float(run.recompute[rank]),
        optimizer=factor * optimizer,
        communication=factor * (float(run.exposed[rank]) + exposed),
        waiting=factor * max(0.0, end - busy - exposed - optimizer - overhead),
        overhead=factor * overhead,
    )
