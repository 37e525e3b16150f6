"""What each worker of a pipeline holds at the worst moment of a step, item by item."""

from dataclasses import dataclass

import numpy as np

from meshwright.cost._flowing import delay
from meshwright.cost._lossy import carried_copies
from meshwright.cost._meetings import kept_copies
from meshwright.cost._memory import with_allocator
from meshwright.cost._prediction import MemoryBreakdown, Moment
from meshwright.cost._workload import Column
from meshwright.cost.hybrid._layout import Layout, Replica
from meshwright.cost.hybrid._pieces import Pieces, Weights
from meshwright.cost.hybrid._pipeline_time import in_flight
from meshwright.graph import Graph, is_in_sections
from meshwright.hardware import Device
from meshwright.units import MIB, Bytes, BytesPerSecond, Seconds

# State that is on a device at one time where it is kept in the host's memory: the piece under way (`parallel`'s own
# size of a piece).
OFFLOADED_PIECE: Bytes = 64 * MIB
# Temporaries of an update that treats a worker's parameters together, as a share of the gradients it updates (torch's
# foreach form of AdamW holds one list of intermediate results).
_UPDATE_SHARE = 1.0
_FLOAT: Bytes = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Stages:
    """A layout's stages in numbers.

    Args:
        units: units of each kind in every stage (`stages kinds`).
        again: of them, those that are computed again (`stages kinds`).
        workers: of the pipeline.
    """

    units: Column
    again: Column
    workers: int

    def per_worker(self, values: Column) -> Column:
        """Sums over the stages of each worker."""
        return values.reshape(-1, self.workers).sum(axis=0)


def held(
    graph: Graph,
    device: Device,
    layout: Layout,
    stages: Stages,
    weights: Weights,
    pieces: Pieces,
    *,
    rank: int,
    replica: Replica,
) -> MemoryBreakdown:
    """Peak of one worker of the pipeline.

    Args:
        graph: the whole one.
        device: what the worker runs on.
        rank: its place in the pipeline.
        weights: of the local graph.
        pieces: of a micro-batch on its device.
        replica: whose pipeline.
    """
    mine = stages.units[rank :: stages.workers]
    units = mine.sum(axis=0)
    shard = layout.parts(replica)
    level = {"none": 0, "optimizer": 1, "gradients": 2, "parameters": 3}[layout.sharding]
    parameters, gradients = float(units @ weights.parameters), float(units @ weights.gradients)
    parts = weights.in_shards(layout.expert_ratio)
    in_parts = level == 3 or (level == 2 and layout.micro_batches == 1)
    kept = float(units @ parts.gradients) / shard if in_parts else gradients
    activations = float(activation_bytes(layout, stages, pieces, rank=rank).sum())
    transient, _ = _in_passes(stages, pieces, rank)
    update = _in_update(graph, layout, float(units @ parts.gradients), shard)
    items = MemoryBreakdown(
        context=device.context,
        parameters=round(float(units @ parts.parameters) / shard if level == 3 else parameters),
        gradients=round(kept + _stashed(layout, parameters, gradients, rank=rank)),
        optimizer=round(_state_here(graph, layout, weights, state_bytes(graph, units, parts, shard))),
        activations=round(activations),
        transient=round(max(transient, update - activations)),
        buffers=graph.buffer_size,
        batch=round(graph.batch_bytes.at(replica.examples * layout.micro_batches)),
        communication=round(_communication(graph, layout, weights, units, gradients, shard)),
    )
    return with_allocator(items, device)


def peak_moment(
    graph: Graph, layout: Layout, stages: Stages, weights: Weights, pieces: Pieces, *, rank: int, replica: Replica
) -> Moment:
    """When a worker of a replica's pipeline holds most; arguments as of `held`."""
    activations = float(activation_bytes(layout, stages, pieces, rank=rank).sum())
    transient, moment = _in_passes(stages, pieces, rank)
    units = stages.units[rank :: stages.workers].sum(axis=0)
    parts = weights.in_shards(layout.expert_ratio)
    update = _in_update(graph, layout, float(units @ parts.gradients), layout.parts(replica))
    return "update" if update - activations > transient else moment


def _in_passes(stages: Stages, pieces: Pieces, rank: int) -> tuple[float, Moment]:
    """What comes and goes beside all saved activations (B): the loss's, and those of a block that is computed again."""
    mine = stages.units[rank :: stages.workers]
    again = stages.again[rank :: stages.workers].sum(axis=0) > 0
    computed_again = float((pieces.activations * again).max(initial=0.0))
    computed_again += float((pieces.away * (mine.sum(axis=0) > 0)).max(initial=0.0))  # a block's that came back
    if mine[-1, -1] or stages.workers == 1:
        return pieces.transient + computed_again, "backward" if computed_again > pieces.transient else "loss"
    return computed_again, "backward"


def _in_update(graph: Graph, layout: Layout, gradients: float, shard: float) -> float:
    """Temporaries of the update, when all activations are gone (B)."""
    if layout.kernels.optimizer == "fused" and graph.optimizer.fused:
        return 0.0
    return _UPDATE_SHARE * gradients / shard


def _stashed(layout: Layout, parameters: float, gradients: float, *, rank: int) -> float:
    """Copies of parameters for the steps that a worker of a flowing pipeline has under way, and their gradients (B)."""
    if layout.schedule != "asynchronous":
        return 0.0
    late = delay(rank, num_stages=layout.mesh.pp, num_micro_batches=layout.micro_batches)
    return (late + 1) * (parameters + gradients) if late else 0.0


def least_held(graph: Graph, layout: Layout, units: Column, weights: Weights) -> float:
    """Parameters, kept gradients, state and what compression left out, of some units where shards are smallest (B)."""
    shard = layout.parts()
    level = {"none": 0, "optimizer": 1, "gradients": 2, "parameters": 3}[layout.sharding]
    parts = weights.in_shards(layout.expert_ratio)
    in_parts = level == 3 or (level == 2 and layout.micro_batches == 1)
    state = 0.0 if layout.offload == "state" else state_bytes(graph, units, parts, shard)
    return (
        float(units @ (parts if level == 3 else weights).parameters) / (shard if level == 3 else 1)
        + float(units @ (parts if in_parts else weights).gradients) / (shard if in_parts else 1)
        + state
        + _carried(layout, weights, units, shard)
    )


def state_bytes(graph: Graph, units: Column, weights: Weights, shard: float) -> float:
    """Optimizer state of some units on one worker, wherever it is kept (B).

    Args:
        weights: as they are in shards.
        shard: in how many parts as large as this worker's it is.
    """
    return graph.optimizer.bytes_per_element * float(units @ weights.elements) / shard


def carrying(
    graph: Graph, layout: Layout, units: Column, weights: Weights, speed: BytesPerSecond, *, shard: float
) -> Seconds:
    """What state in the hosts' memory takes to the device and back, with nothing to hide it behind (s).

    Args:
        weights: as they are in shards.
        speed: of the way between device and host, each way (B/s).
        shard: in how many parts as large as the worker's it is.
    """
    return 2 * state_bytes(graph, units, weights, shard) / speed if layout.offload == "state" else 0.0


def _state_here(graph: Graph, layout: Layout, weights: Weights, state: float) -> float:
    """What of the optimizer's state is on the device: all, or the piece that is being updated (B)."""
    return min(state, _piece(graph, weights)) if layout.offload == "state" else state


def _piece(graph: Graph, weights: Weights) -> float:
    """State of the parameters that are updated together; the largest one is whole (B)."""
    largest = float((weights.elements / np.maximum(weights.tensors, 1)).max(initial=0.0))
    return max(float(OFFLOADED_PIECE), graph.optimizer.bytes_per_element * largest)


def activation_bytes(layout: Layout, stages: Stages, pieces: Pieces, *, rank: int) -> Column:
    """Saved activations of a worker's stages: of all micro-batches that are under way in them (B)."""
    own = slice(rank, None, stages.workers)
    flying = np.array(in_flight(layout.form)[own], dtype=np.float64)
    freed = pieces.activations - pieces.inputs
    return flying * (stages.units[own] @ pieces.activations - stages.again[own] @ freed)


def _communication(
    graph: Graph, layout: Layout, weights: Weights, units: Column, gradients: float, shard: float
) -> float:
    """What exchanges hold: two buckets, and for parameters in shards two gathered units.

    Only repeated blocks are gathered one by one; where there are none, a worker gathers all that it computes with.
    """
    workers = layout.mesh.num_workers
    if workers == 1:
        return 0.0
    carried = _carried(layout, weights, units, shard)
    return carried if workers == layout.islands else carried + _slots(graph, layout, weights, units, gradients)


def _carried(layout: Layout, weights: Weights, units: Column, shard: float) -> float:
    """What compression has left out of the gradients of some units so far, and what islands keep of them (B)."""
    updates = layout.exchange.updates
    copies = carried_copies(layout.exchange.compression)
    if updates is not None:
        parts = shard if layout.sharding == "parameters" else 1
        return (copies + kept_copies(updates)) * _FLOAT * float(weights.elements @ units) / parts
    return copies * _FLOAT * float(weights.elements @ units) if copies else 0.0


def _slots(graph: Graph, layout: Layout, weights: Weights, units: Column, gradients: float) -> float:
    """What is under way (B)."""
    slots = 2 * min(gradients, float(layout.exchange.bucket_size))
    if layout.sharding == "parameters":
        if is_in_sections(graph):
            return slots + float(weights.parameters @ units)
        return slots + 2 * float((weights.parameters * (units > 0)).max(initial=0.0))
    return slots
