"""The time of a hybrid strategy's step: units' times make stages, stages a pipeline, and then gradients and updates."""

from dataclasses import dataclass

import numpy as np

from meshwright.cost._prediction import Collective, TimeBreakdown
from meshwright.cost._workload import Column
from meshwright.cost.accelerator import Habits, after_backward, beside, together
from meshwright.cost.hybrid._exchanges import Exchanges, UnitExchange
from meshwright.cost.hybrid._held import Stages
from meshwright.cost.hybrid._layout import Layout
from meshwright.cost.hybrid._pieces import Pieces, Weights
from meshwright.cost.hybrid._pipeline_time import spans
from meshwright.hardware import CollectiveName
from meshwright.units import Seconds

# The step engine's own Python for one micro-batch (as in `_pricing`).
ENGINE: Seconds = 9e-6
_LOSS_SIZE = 16
# Kernels of a layer with a gate and rotary positions, forward and backward, as counted in its capture: what a
# framework's time for a layer was fitted to.
LAYER_LAUNCHES = 59.0


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTimes:
    """One micro-batch on every kind of unit and stage.

    Args:
        forward: of each kind of unit, with its exchange (s).
        backward: of each kind of unit, with its exchange, without recomputation (s).
        exposed_forward: exchange in `forward` that nothing hides (s).
        exposed_backward: exchange in `backward` that nothing hides (s).
        launching: of both, what the device waits for its host (s).
    """

    forward: Column
    backward: Column
    exposed_forward: Column
    exposed_backward: Column
    launching: Column


def unit_times(
    layout: Layout,
    exchanges: Exchanges,
    listed: tuple[UnitExchange, ...],
    weights: Weights,
    pieces: Pieces,
    *,
    host: Seconds = 0.0,
) -> StageTimes:
    """What a micro-batch takes on one unit of each kind, collectives included.

    Args:
        host: its time to launch as many kernels as a layer has (s).
    """
    exposed_forward, exposed_backward = np.zeros_like(pieces.forward), np.zeros_like(pieces.forward)
    for item in listed:
        hidden = pieces.attention if item.hideable else 0.0
        exposed_forward = exposed_forward + np.maximum(0.0, item.waited_forward - hidden)
        exposed_backward = exposed_backward + np.maximum(0.0, item.waited_backward - 2 * hidden)
    if layout.sharding == "parameters" and layout.mesh.dp_shard > 1:
        gathered, scattered = sharded_times(layout, exchanges, weights)
        exposed_forward = exposed_forward + _beside(exchanges, gathered, pieces.forward + exposed_forward)
        exposed_backward = exposed_backward + _beside(
            exchanges, gathered + scattered, pieces.backward + exposed_backward
        )
    forward, backward = pieces.forward + exposed_forward, pieces.backward + exposed_backward
    device = np.maximum(forward + backward, 1e-12)
    slower = together(device, host * pieces.launches / LAYER_LAUNCHES) / device if host else np.ones_like(device)
    return StageTimes(
        forward=forward * slower,
        backward=backward * slower,
        exposed_forward=exposed_forward,
        exposed_backward=exposed_backward,
        launching=(forward + backward) * (slower - 1),
    )


def _beside(exchanges: Exchanges, exchange: Column, computing: Column) -> Column:
    if exchanges.habits is None:
        return np.maximum(0.0, exchange - computing)
    return beside(exchange, computing, exchanges.habits)


def sharded_times(layout: Layout, exchanges: Exchanges, weights: Weights) -> tuple[Column, Column]:
    """Gathering the parameters of one unit of each kind, and scattering its gradients (s)."""
    degree, stride = layout.mesh.dp_shard, layout.stride("dp_shard")

    def times(name: CollectiveName, sizes: Column) -> Column:
        return np.array(
            [exchanges.time(layout, name, degree, stride, float(size)) if size > 0 else 0.0 for size in sizes]
        )

    return times("all_gather", weights.parameters), times("reduce_scatter", weights.gradients)


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
    layout: Layout, exchanges: Exchanges, gradients: float, expert: float, parameters: float, *, window: Seconds
) -> Synchronised:
    """Gradients summed over the data axes once a step, beside the last micro-batch's backward.

    Args:
        gradients: bytes on one worker.
        expert: of them, those of experts, of which there are fewer replicas.
        parameters: bytes on one worker.
        window: that backward (s); 0 where nothing can be hidden behind it.
    """
    mesh = layout.mesh
    replicate, shard, context = mesh.dp_replicate, mesh.dp_shard, mesh.cp
    found: list[Collective] = []

    def add(name: CollectiveName, axis: str, degree: int, step: int, size: float) -> None:
        if degree == 1 or size <= 0:
            return
        calls = max(1, round(size / layout.exchange.bucket_size))
        duration = exchanges.time(layout, name, degree, step, size, calls=calls)
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
    if layout.sharding in ("optimizer", "gradients"):
        add("all_gather", "dp_shard", shard, layout.stride("dp_shard"), parameters)
    gathered = sum(item.duration for item in found) - total
    loss = exchanges.time(layout, "all_reduce", mesh.num_workers, 1, _LOSS_SIZE)
    exposed = loss + _after(layout, exchanges, total, gathered, gradients, window=window)
    return Synchronised(exposed=exposed, collectives=tuple(found))


def _after(
    layout: Layout, exchanges: Exchanges, reduced: Seconds, gathered: Seconds, gradients: float, *, window: Seconds
) -> Seconds:
    """What of exchanging gradients, and then parameters, nothing hides (s)."""
    if exchanges.habits is not None:
        return after_backward(reduced, gathered, window if layout.exchange.overlap else 0.0, exchanges.habits)
    tail = reduced * min(1.0, layout.exchange.bucket_size / max(1.0, gradients))
    return gathered + (max(tail, reduced - window) if layout.exchange.overlap else reduced)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A pipeline's run through all micro-batches, before gradients are exchanged.

    Args:
        ends: when each worker has done its last backward (s).
        forward: computing of each worker (s).
        backward: likewise, without recomputation.
        recompute: likewise.
        exposed: exchange in them that nothing hides (s).
        launching: what the device waits for its host in them (s).
        last: the last micro-batch's backward on each worker (s).
    """

    ends: tuple[Seconds, ...]
    forward: Column
    backward: Column
    recompute: Column
    exposed: Column
    launching: Column
    last: Column


def run_of(
    layout: Layout,
    stages: Stages,
    kinds: list[tuple[Pieces, StageTimes]],
    transfers: list[Seconds],
    *,
    habits: Habits | None = None,
) -> Run:
    """Runs the micro-batches through the stages.

    Args:
        kinds: pieces and times for every worker of the pipeline, by its place.
        transfers: over every cut (s).
        habits: which share of a transfer, and of filling and emptying, is waited for; None: what the schedule says.
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
    launching = total([times.launching for _, times in kinds], stages.units)
    sending = np.zeros(len(forward))
    if habits is not None and transfers:
        # Both neighbours wait for a message: a stage's activations come and go, and so do its gradients.
        carried = habits.send * np.array(transfers)
        sending[1:] += carried / 2
        sending[:-1] += carried / 2
        transfers = [0.0] * len(transfers)
    ends = spans(layout.form, (forward + sending).tolist(), (backward + again + sending).tolist(), transfers)
    if habits is not None and workers > 1:
        busy = count * float(stages.per_worker(forward + backward + again + 2 * sending).max())
        ends = tuple(end + (habits.bubble - 1) * max(0.0, end - busy) for end in ends)
    return Run(
        ends=ends,
        forward=count * stages.per_worker(computing),
        backward=count * stages.per_worker(differentiating),
        recompute=count * stages.per_worker(again - hidden_again),
        exposed=count * stages.per_worker(exposed + hidden_again + 2 * sending),
        launching=count * stages.per_worker(launching),
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
    launching = float(run.launching[rank])
    busy = float(run.forward[rank] + run.backward[rank] + run.recompute[rank] + run.exposed[rank]) + launching
    return TimeBreakdown(
        forward=factor * float(run.forward[rank]),
        backward=factor * float(run.backward[rank]),
        recompute=factor * float(run.recompute[rank]),
        optimizer=factor * optimizer,
        communication=factor * (float(run.exposed[rank]) + exposed),
        waiting=factor * max(0.0, end - busy - exposed - optimizer - overhead),
        overhead=factor * (overhead + launching),
    )
