r"""What islands that train apart cost: exact exchange inside them, and meetings, each spread over its interval.

A meeting of n islands sums their ways, as large as the parameters, over one worker of each. One that is under way
while the islands go on is waited for only beyond the steps that it is given. With a server every island sends its way
and gets the parameters back, all through the link of the server's host; islands go on meanwhile, so that a link that
is too slow makes meetings rarer, not steps longer. Shared memory is no exchange at all.

Besides, every meeting reads and writes the parameters some times: counted, pass by pass, in `parallel.stale`.
"""

from collections import Counter
from dataclasses import dataclass, replace
from math import ceil

from meshwright.cost._communication import CollectiveCost, collective_cost, moved_share
from meshwright.cost._compute import ComputeTime
from meshwright.cost._exchange_cost import StepExchange, step_exchange
from meshwright.cost._islands import counterparts, island_ranks, strategy_within
from meshwright.cost._lossy import lossy_cost, sent_share
from meshwright.cost._prediction import Collective
from meshwright.cost._strategy import Strategy
from meshwright.cost._updates import Updates
from meshwright.cost._workload import Workload
from meshwright.hardware import Cluster, CollectiveName
from meshwright.units import Bytes, BytesPerSecond, Seconds

# Parameters read or written, in float32: by an island that sends its way (9) and takes what was agreed on (19); by one
# that hands its way to a server (5) and goes on from the answer (8); by the server, for each way (27).
_MEETING_PASSES, _HANDING_PASSES, _SERVING_PASSES = 28, 13, 27
# Copies of the parameters that a worker keeps: what was agreed on, momentum, message and what was sent; with a server
# what was given, what was sent, way and answer; in shared memory its own ones, which it gets back at the end.
_COPIES = {"local": 4, "asynchronous": 4, "shared": 1}
_SERVER_COPIES = 3
_FLOAT: Bytes = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Meetings:
    """What meetings add to each step.

    Args:
        exposed: time that they are waited for (s).
        passes: time that it takes to work on the parameters (s).
        collectives: what is exchanged in a step on average.
        interval: steps between two meetings, as the link allows.
    """

    exposed: Seconds = 0.0
    passes: Seconds = 0.0
    collectives: tuple[Collective, ...] = ()
    interval: float = 1.0


def slowest_island(strategy: Strategy) -> Strategy:
    """What the workers of the island with the most hosts do among themselves, on their part of the batch."""
    updates = strategy.exchange.updates
    assert updates is not None
    islands = {island_ranks(strategy.mesh, updates, rank) for rank in range(strategy.num_workers)}
    ranks = max(sorted(islands), key=lambda each: len({strategy.workers[rank].host for rank in each}))
    within = strategy_within(strategy, ranks, updates)
    part = sum(within.batch.shares) / sum(strategy.batch.shares)
    return replace(within, batch=replace(within.batch, size=max(1, round(strategy.batch.size * part))))


def exchange_apart(
    workload: Workload,
    cluster: Cluster,
    strategy: Strategy,
    computed: ComputeTime,
    *,
    busy: float,
    copying: BytesPerSecond,
) -> StepExchange:
    """All exchange of a step on one worker: the island's own, and its part of the next meeting.

    Args:
        computed: one micro-batch.
        busy: share of a hidden exchange that takes time from the cores that compute (0 to 1).
        copying: bytes read and written over time when parameters are copied (B/s).
    """
    within = slowest_island(strategy)
    inner = step_exchange(workload, cluster, within, computed, busy=busy, copying=copying)
    computing = (computed.forward + computed.backward + computed.recompute) * strategy.batch.accumulation
    outer = meetings(workload, cluster, strategy, step=computing + inner.exposed, busy=busy, copying=copying)
    return StepExchange(
        exposed=inner.exposed + outer.exposed + outer.passes, collectives=(*inner.collectives, *outer.collectives)
    )


def meetings(
    workload: Workload, cluster: Cluster, strategy: Strategy, *, step: Seconds, busy: float, copying: BytesPerSecond
) -> Meetings:
    """Prices the meetings of a strategy's islands, per step.

    Args:
        step: of an island without them (s).
        busy: share of a hidden exchange that takes time from the cores that compute (0 to 1).
        copying: bytes read and written over time when parameters are copied (B/s).
    """
    updates = strategy.exchange.updates
    assert updates is not None
    size = message_size(workload, strategy)
    if updates.kind == "shared":
        return met(updates, size=size, sent=0.0, duration=0.0, step=step, busy=busy, copying=copying)
    cost, flows = _link(cluster, strategy, updates)
    if updates.kind == "asynchronous":
        return met(updates, size=size, sent=size, duration=cost.time(size), step=step, busy=busy, copying=copying)
    sent = float(size)
    if strategy.exchange.compression is not None:
        cost = lossy_cost(cost, strategy, workload, group=updates.islands, copying=copying).cost
        sent *= sent_share(strategy, workload, group=updates.islands) / moved_share("all_reduce", updates.islands)
    duration = cost.latency * updates.fragments + flows * size / cost.bandwidth
    return met(updates, size=size, sent=sent, duration=duration, step=step, busy=busy, copying=copying)


def met(
    updates: Updates, *, size: float, sent: float, duration: Seconds, step: Seconds, busy: float,
    copying: BytesPerSecond,
) -> Meetings:  # fmt: skip
    """What meetings add to each step.

    Args:
        size: of an island's way, as far as one worker has it (B).
        sent: as large as the sum that sends as much (B).
        duration: of a meeting's exchange; with a server of one way to it (s).
        step: of an island without meetings (s).
        busy: share of a hidden exchange that takes time from the cores that compute (0 to 1).
        copying: bytes read and written over time when parameters are copied (B/s).
    """
    if updates.kind == "shared":
        return Meetings()
    if updates.kind == "asynchronous":
        return _served(duration, updates, size=size, step=step, busy=busy, copying=copying)
    waited = updates.fragments * max(0.0, duration / updates.fragments - updates.delay * step)
    hidden = duration - waited
    each = 1 / updates.interval
    return Meetings(
        exposed=each * (waited + busy * hidden),
        passes=each * _MEETING_PASSES * size / copying,
        collectives=(_collective("all_reduce", size=sent * each, duration=duration * each),),
        interval=float(updates.interval),
    )


def message_size(workload: Workload, strategy: Strategy) -> Bytes:
    """An island's way, as far as one worker has it (B)."""
    mesh = strategy.mesh
    parts = mesh.pp * mesh.tp * (mesh.dp_shard if strategy.sharding == "parameters" else 1)
    return ceil(_FLOAT * workload.trainable_elements / parts)


def kept_size(workload: Workload, strategy: Strategy) -> Bytes:
    """What the fullest worker keeps between meetings besides its parameters (B)."""
    updates = strategy.exchange.updates
    if updates is None:
        return 0
    return kept_copies(updates) * message_size(workload, strategy)


def kept_copies(updates: Updates) -> int:
    """Copies of a worker's parameters that the fullest one keeps between meetings."""
    served = _SERVER_COPIES + updates.islands if updates.kind == "asynchronous" else 0
    return _COPIES[updates.kind] + served


def _link(cluster: Cluster, strategy: Strategy, updates: Updates) -> tuple[CollectiveCost, int]:
    """An all-reduce over one worker of each island, and how many of them go through a host's link at the same time."""
    ranks = counterparts(strategy.mesh, updates, 0)
    transport = "gloo" if strategy.workers[0].device == "cpu" else strategy.exchange.transport
    bridge = replace(
        strategy,
        workers=tuple(strategy.workers[rank] for rank in ranks),
        exchange=replace(strategy.exchange, transport=transport),
    )
    home = island_ranks(strategy.mesh, updates, 0)
    flows = max(Counter(strategy.workers[rank].host for rank in home).values())
    kind: CollectiveName = "send" if updates.kind == "asynchronous" else "all_reduce"
    return collective_cost(cluster, bridge, kind, updates.islands), flows


def _served(
    way: Seconds, updates: Updates, *, size: float, step: Seconds, busy: float, copying: BytesPerSecond
) -> Meetings:
    """All ways go to the server's host and all parameters come from there."""
    round_trips = 2 * (updates.islands - 1) * way
    interval = max(float(updates.interval), ceil(round_trips / step) if step else 1.0)
    passes = (_HANDING_PASSES + _SERVING_PASSES * updates.islands) * size / copying
    return Meetings(
        exposed=busy * round_trips / interval,
        passes=passes / interval,
        collectives=(_collective("send", size=2 * size / interval, duration=round_trips / interval),),
        interval=interval,
    )


def _collective(name: CollectiveName, *, size: float, duration: Seconds) -> Collective:
    return Collective(name=name, axis="islands", count=1, size=round(size), duration=duration)
