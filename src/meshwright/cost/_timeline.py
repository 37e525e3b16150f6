"""The exchange of gradients beside the backward, event by event.

The backward's operations end one after another; where one completes a parameter's gradient, the gradient joins the
current bucket; a full bucket is sent as soon as the one before it has arrived. Whatever is not through when the
backward ends is waited for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from meshwright.cost._communication import CollectiveCost
from meshwright.cost._workload import Column, Workload
from meshwright.units import Bytes, Seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """Gradients that are sent together.

    Args:
        ready: when the last of them is complete, from the backward's start (s).
        size: their bytes (B).
    """

    ready: Seconds
    size: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ExchangeTime:
    """What the exchange adds to a step.

    Args:
        exposed: waited for after the backward (s).
        slowdown: by which it lengthens the backward, for want of a core of its own (s).
        total: all of it, hidden or not (s).
        count: collectives.
    """

    exposed: Seconds
    slowdown: Seconds
    total: Seconds
    count: int


def buckets(workload: Workload, operations: Column, *, backward: Seconds, bucket_size: Bytes) -> tuple[Bucket, ...]:
    """The buckets in the order of the backward.

    Args:
        operations: time of each of the backward's operations (s).
        backward: the whole backward (s); what it takes beyond its operations is spread over them.
        bucket_size: a bucket is closed once it holds this much (B).
    """
    gradients = _gradients_by_time(workload, operations, backward)
    filled: list[Bucket] = []
    held = 0.0
    for ready, size in gradients:
        held += size
        if held >= bucket_size:
            filled.append(Bucket(ready=ready, size=held))
            held = 0.0
    if held:
        filled.append(Bucket(ready=gradients[-1][0], size=held))
    return tuple(filled)


def exchange_time(
    sent: Sequence[Bucket], cost: CollectiveCost, *, backward: Seconds, overlap: bool, busy: float
) -> ExchangeTime:
    """Sends buckets one after another beside the backward.

    Args:
        sent: in order.
        cost: of the collective.
        backward: when the backward ends (s).
        overlap: whether a bucket may be sent before the backward ends.
        busy: share of a hidden exchange that takes time from the backward's cores (0 to 1).
    """
    end = total = 0.0
    for bucket in sent:
        start = max(end, bucket.ready if overlap else backward)
        duration = cost.time(bucket.size)
        end = start + duration
        total += duration
    exposed = max(0.0, end - backward)
    return ExchangeTime(exposed=exposed, slowdown=busy * max(0.0, total - exposed), total=total, count=len(sent))


def _gradients_by_time(workload: Workload, operations: Column, backward: Seconds) -> list[tuple[Seconds, Bytes]]:
    """When each gradient is complete (s) and its bytes, earliest first."""
    ends = spans(workload, operations)
    length = ends[-1][2] if ends else 0.0
    stretch = backward / length if length else 0.0
    found: list[tuple[Seconds, Bytes]] = []
    for slot in workload.gradient_slots:
        if slot.position < 0:
            found.extend([(backward, slot.size)] * slot.repeats)
            continue
        offset, period, _ = ends[slot.position]
        found.extend(((offset + period * instance) * stretch, slot.size) for instance in range(slot.repeats))
    return sorted(found)


def spans(workload: Workload, operations: Column) -> list[tuple[Seconds, Seconds, Seconds]]:
    """Per operation: end of its first instance, time between instances, end of the last repeat of its run (s)."""
    ends: list[tuple[Seconds, Seconds, Seconds]] = []
    clock = 0.0
    for first, end, repeats in workload.runs:
        period = float(operations[first:end].sum())
        inside = clock
        done = clock + period * repeats
        for position in range(first, end):
            inside += float(operations[position])
            ends.append((inside, period, done))
        clock = done
    return ends
