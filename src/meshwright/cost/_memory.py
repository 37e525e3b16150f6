"""Peak memory of one worker, item by item, from the lifetimes that the capture saw.

The peak lies in the backward, where saved activations shrink while gradients grow, or in the update, where gradients
are whole and the optimizer has its temporaries. The items are those of the higher of the two, so that they add up.
"""

from dataclasses import dataclass, replace

import numpy as np

from meshwright.cost._lossy import carried_size
from meshwright.cost._meetings import kept_size, slowest_island
from meshwright.cost._prediction import MemoryBreakdown, Moment
from meshwright.cost._strategy import Strategy
from meshwright.cost._timeline import spans
from meshwright.cost._workload import Workload, within
from meshwright.graph import Activation
from meshwright.hardware import Device
from meshwright.units import MIB, Bytes

# Temporaries of AdamW's default form on one parameter: the square root of the second moment, the denominator, and
# the update (torch/optim/adam.py, _single_tensor_adam).
_UPDATE_TEMPORARIES = 3
# On an accelerator, over what is asked for: blocks that torch's allocator rounds up or cannot use again. Factors that
# were fitted to frameworks' measured peaks lie around it, between 0.91 and 1.12 but for one (memory.toml).
_ROUNDING = 0.05
# On a CPU, over what is asked for: glibc's gaps, as a share of what comes and goes in a step, and the memory in which
# matrix libraries pack their operands, up to so much. Measured as the difference between resident peaks and the other
# items of five models of 0.1 to 1 GiB; with both, peaks were between -9 % and +4 % of the measured ones.
_GAPS = 0.1
_PACKING: Bytes = 25 * MIB


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """What a micro-batch holds at the worst moment of its backward.

    Args:
        activations: saved by the forward and not yet used up (B).
        gradients: complete at that moment (B).
    """

    activations: float
    gradients: float


def peaks(
    workload: Workload, device: Device, strategy: Strategy, *, examples: float, parts: float | None = None
) -> dict[Moment, MemoryBreakdown]:
    """What a worker that is given `examples` of the global batch holds when its backward and its update hold most.

    Args:
        device: what it runs on.
        examples: of all its micro-batches together.
        parts: in how many parts as large as its own what is in shards would be; None: shards are equal.
    """
    graph, shard = workload.graph, strategy.mesh.dp_shard if parts is None else parts
    sharded = {"none": 0, "optimizer": 1, "gradients": 2, "parameters": 3}[strategy.sharding]
    micro = examples / strategy.batch.accumulation
    gradients = workload.gradient_size / (shard if sharded >= 2 and strategy.batch.accumulation == 1 else 1)
    saved = saved_peak(workload, micro, strategy, gradients=gradients)
    state = graph.optimizer.bytes_per_element * workload.trainable_elements / (shard if sharded >= 1 else 1)
    constant = MemoryBreakdown(
        context=device.context,
        parameters=round(workload.parameter_size / (shard if sharded >= 3 else 1)),
        optimizer=round(state),
        buffers=graph.buffer_size,
        batch=round(graph.batch_bytes.at(strategy.batch.size if device.kind == "cpu" else examples)),
        communication=round(_communication_size(workload, strategy)),
    )
    in_backward = replace(
        constant,
        gradients=round(saved.gradients),
        activations=round(saved.activations),
        transient=round(graph.transient.at(micro) + _recomputed_size(workload, micro, strategy.recompute)),
    )
    in_update = replace(
        constant, gradients=round(gradients), transient=round(_update_size(workload, device, strategy, shard))
    )
    return {"backward": with_allocator(in_backward, device), "update": with_allocator(in_update, device)}


def highest(held: dict[Moment, MemoryBreakdown]) -> Moment:
    """The moment at which most is held."""
    return max(held, key=lambda moment: held[moment].peak)


def allocated(device: Device) -> float:
    """How much more every byte of a worker's tensors takes at least, as a factor."""
    return 1.0 if device.kind == "cpu" else 1 + _ROUNDING


def freed(device: Device) -> float:
    """How much more every byte of activations frees that is not kept, as a factor."""
    return 1 + _GAPS if device.kind == "cpu" else 1 + _ROUNDING


def with_allocator(items: MemoryBreakdown, device: Device) -> MemoryBreakdown:
    """The items with what the allocator, and on a processor its matrix libraries, take besides."""
    if device.kind != "cpu":
        return replace(items, allocator=round(_ROUNDING * (items.peak - items.context)))
    changing = items.activations + items.gradients + items.transient
    return replace(items, allocator=round(_GAPS * changing + min(_PACKING, changing)))


def saved_peak(workload: Workload, micro: float, strategy: Strategy, *, gradients: float) -> Saved:
    """The moment of the backward when activations and gradients together are largest.

    Gradients are whole from the start where earlier micro-batches have left theirs, and where they live in the memory
    that they are sent from.

    Args:
        micro: examples of a micro-batch.
        gradients: all that the worker keeps of them (B).
    """
    kept = _kept_activations(workload, strategy.recompute)
    total = sum(item.size.at(micro) * item.repeats for item in kept)
    sent_in_place = strategy.num_workers > 1 and strategy.sharding in ("none", "optimizer")
    if strategy.batch.accumulation > 1 or sent_in_place:
        return Saved(activations=total, gradients=gradients)
    times, freed, grown = _events(workload, kept, micro, gradients)
    order = np.lexsort((freed > 0, times))  # a gradient is complete before the activation it came from is let go
    gone = np.concatenate(([0.0], np.cumsum(freed[order])))[:-1]
    held = np.cumsum(grown[order])
    worst = int(np.argmax(held - gone)) if len(order) else -1
    if worst < 0 or held[worst] - gone[worst] <= 0:
        return Saved(activations=total, gradients=0.0)
    return Saved(activations=max(0.0, total - float(gone[worst])), gradients=float(held[worst]))


def _events(
    workload: Workload, kept: tuple[Activation, ...], micro: float, gradients: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Moments of the backward (counted in operations), with the bytes freed and the gradients completed at each."""
    ends = spans(workload, np.ones(len(workload.backward)))
    position = {int(index): place for place, index in enumerate(workload.backward)}
    scale = gradients / workload.gradient_size if workload.gradient_size else 0.0
    events: list[tuple[float, float, float]] = []
    for item in kept:
        place = position.get(item.freed)
        offset, period, _ = ends[place] if place is not None else (0.0, 0.0, 0.0)
        size = item.size.at(micro)
        events.extend((offset + period * instance, size, 0.0) for instance in range(item.repeats))
    for slot in workload.gradient_slots:
        offset, period, _ = ends[slot.position] if slot.position >= 0 else (float("inf"), 0.0, 0.0)
        events.extend((offset + period * instance, 0.0, slot.size * scale) for instance in range(slot.repeats))
    columns = np.array(events, dtype=np.float64).reshape(-1, 3).T
    return columns[0], columns[1], columns[2]


def _kept_activations(workload: Workload, recompute: tuple[str, ...]) -> tuple[Activation, ...]:
    """Activations that are still saved when the blocks of these paths keep only their input."""
    activations = workload.graph.activations
    if not recompute:
        return activations
    first = _block_inputs(workload, recompute)
    share = 1 - len(recompute) / max(1, len(workload.blocks))
    kept = []
    for index, item in enumerate(activations):
        if index in first or not within(item.module, recompute):
            kept.append(item)
        elif round(item.repeats * share):
            kept.append(replace(item, repeats=round(item.repeats * share)))
    return tuple(kept)


def _block_inputs(workload: Workload, recompute: tuple[str, ...]) -> set[int]:
    """The earliest activation saved inside each block that grows with the batch: its input."""
    first: dict[str, int] = {}
    for index, item in enumerate(workload.graph.activations):
        if item.size.per_example <= 0:
            continue
        for path in recompute:
            if within(item.module, (path,)):
                known = first.get(path)
                if known is None or item.created < workload.graph.activations[known].created:
                    first[path] = index
    return set(first.values())


def _recomputed_size(workload: Workload, micro: float, recompute: tuple[str, ...]) -> float:
    """Activations of the largest block, which are alive while that block's backward runs (B)."""
    sizes = dict.fromkeys(recompute, 0.0)
    for item in workload.graph.activations:
        for path in recompute:
            if within(item.module, (path,)):
                sizes[path] += item.size.at(micro)
    return max(sizes.values(), default=0.0)


def _communication_size(workload: Workload, strategy: Strategy) -> float:
    """What the exchange holds besides gradients (B).

    Two slots in which messages travel, for gradients that only their owner keeps and for parameters that their owner
    hands out; through shared memory, the parts of the other workers' gradients that this one adds up; with
    compression what was left out; and for parameters in shards, what is gathered for the block at work and for the
    next one. Islands that train apart also keep what they agreed on last.
    """
    if strategy.exchange.updates is not None:
        kept = kept_size(workload, strategy) + carried_size(strategy, workload)
        return kept + _communication_size(workload, slowest_island(strategy))
    workers = strategy.num_workers
    if workers == 1:
        return 0.0
    slots = 2 * min(workload.gradient_size, strategy.exchange.bucket_size + workload.largest_parameter)
    if strategy.sharding == "parameters":
        return slots + 2 * workload.largest_unit + carried_size(strategy, workload)
    seen = workload.gradient_size * (workers - 1) / workers if strategy.exchange.transport == "shared_memory" else 0.0
    return (
        seen + carried_size(strategy, workload) + slots * {"none": 0, "optimizer": 1, "gradients": 2}[strategy.sharding]
    )


def _update_size(workload: Workload, device: Device, strategy: Strategy, parts: float) -> float:
    """Temporaries of the update: of one parameter, or of all where torch updates them together (foreach)."""
    if strategy.kernels.optimizer == "fused" and workload.graph.optimizer.fused:
        return 0.0
    if device.kind == "cpu":
        return float(_UPDATE_TEMPORARIES * workload.largest_parameter)
    return workload.gradient_size / (parts if strategy.sharding != "none" else 1)
