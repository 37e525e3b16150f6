"""What the workers of one step exchange, and how much of that the backward hides."""

from dataclasses import dataclass

from meshwright.cost._communication import CollectiveCost, collective_cost, moved_share
from meshwright.cost._compute import ComputeTime
from meshwright.cost._lossy import is_lossy, lossy_cost, sent_share
from meshwright.cost._packing import is_packed, packed_cost, packed_share
from meshwright.cost._prediction import Collective
from meshwright.cost._strategy import Strategy
from meshwright.cost._timeline import Bucket, buckets, exchange_time
from meshwright.cost._workload import Workload
from meshwright.hardware import Cluster, CollectiveName
from meshwright.units import BytesPerSecond, Seconds

# Bytes of the loss and its weight, summed over the workers once a step.
_LOSS_SIZE = 16
# Bytes of a BatchNorm layer's two sums over 256 channels.
_STATISTICS_SIZE = 2048


@dataclass(frozen=True, kw_only=True, slots=True)
class StepExchange:
    """All exchange of a step on one worker.

    Args:
        exposed: time it adds to the step (s).
        collectives: what is exchanged, hidden or not.
    """

    exposed: Seconds = 0.0
    collectives: tuple[Collective, ...] = ()


def step_exchange(
    workload: Workload,
    cluster: Cluster,
    strategy: Strategy,
    computed: ComputeTime,
    *,
    busy: float,
    copying: BytesPerSecond = float("inf"),
) -> StepExchange:
    """Prices the exchange of a data-parallel step.

    Gradients go in buckets beside the last micro-batch's backward; parameters that are kept in shards are gathered
    before each forward and again before each backward; where only the optimizer's state (or the gradients too) is in
    shards, each worker hands out the parameters it has updated.

    Args:
        computed: one micro-batch.
        busy: share of a hidden exchange that takes time from the cores that compute (0 to 1).
        copying: bytes read and written over time when gradients are copied, for what encoding them takes (B/s).
    """
    if strategy.num_workers == 1:
        return StepExchange()
    parts = [
        _gradients(workload, cluster, strategy, computed, busy=busy, copying=copying),
        _loss(cluster, strategy),
        _batch_statistics(workload, cluster, strategy),
    ]
    if strategy.sharding == "parameters":
        parts.append(_gathered_parameters(workload, cluster, strategy, computed, busy=busy))
    elif strategy.sharding != "none":
        parts.append(_updated_parameters(workload, cluster, strategy))
    return StepExchange(
        exposed=sum(part.exposed for part in parts),
        collectives=tuple(collective for part in parts for collective in part.collectives),
    )


def _gradients(
    workload: Workload,
    cluster: Cluster,
    strategy: Strategy,
    computed: ComputeTime,
    *,
    busy: float,
    copying: BytesPerSecond,
) -> StepExchange:
    backward = computed.backward + computed.recompute
    name, cost = _gradient_cost(cluster, strategy)
    size = workload.gradient_size
    if is_lossy(strategy):
        group = strategy.mesh.num_shares
        lossy = lossy_cost(cost, strategy, workload, group=group, copying=copying)
        cost = lossy.cost
        # where no core is idle, coding takes its own time from the backward, however long the link waits
        busy += (1 - busy) * lossy.coding if busy else 0.0
        size = round(size * sent_share(strategy, workload, group=group) / moved_share(name, group))
    if is_packed(strategy):
        cost = packed_cost(cost, strategy, group=strategy.mesh.num_shares, copying=copying)
        size = round(size * packed_share(strategy))
    sent: tuple[Bucket, ...] = buckets(
        workload, computed.operations, backward=backward, bucket_size=strategy.exchange.bucket_size
    )
    time = exchange_time(sent, cost, backward=backward, overlap=strategy.exchange.overlap, busy=busy)
    axis = "dp_replicate" if strategy.sharding in ("none", "optimizer") else "dp_shard"
    return StepExchange(
        exposed=time.exposed + time.slowdown,
        collectives=(Collective(name=name, axis=axis, count=time.count, size=size, duration=time.total),),
    )


def _gradient_cost(cluster: Cluster, strategy: Strategy) -> tuple[CollectiveName, CollectiveCost]:
    """All-reduce over everyone; with gradients in shards, reduce-scatter, then all-reduce of a shard over replicas."""
    mesh = strategy.mesh
    if strategy.sharding in ("none", "optimizer"):
        return "all_reduce", collective_cost(cluster, strategy, "all_reduce", mesh.num_shares)
    scatter = collective_cost(cluster, strategy, "reduce_scatter", mesh.dp_shard)
    if mesh.dp_replicate == 1:
        return "reduce_scatter", scatter
    reduce = collective_cost(cluster, strategy, "all_reduce", mesh.dp_replicate)
    return "reduce_scatter", CollectiveCost(
        latency=scatter.latency + reduce.latency,
        bandwidth=1 / (1 / scatter.bandwidth + 1 / (reduce.bandwidth * mesh.dp_shard)),
    )


def _loss(cluster: Cluster, strategy: Strategy) -> StepExchange:
    duration = collective_cost(cluster, strategy, "all_reduce", strategy.num_workers).time(_LOSS_SIZE)
    return StepExchange(
        exposed=duration,
        collectives=(Collective(name="all_reduce", axis="loss", count=1, size=_LOSS_SIZE, duration=duration),),
    )


def _batch_statistics(workload: Workload, cluster: Cluster, strategy: Strategy) -> StepExchange:
    """BatchNorm's sums over the global batch: one small all-reduce per layer in the forward and one in the backward."""
    count = 2 * workload.num_batch_norms * strategy.batch.accumulation
    if not count:
        return StepExchange()
    cost = collective_cost(cluster, strategy, "all_reduce", strategy.num_workers)
    size = count * _STATISTICS_SIZE
    duration = count * cost.time(_STATISTICS_SIZE)
    return StepExchange(
        exposed=duration,
        collectives=(Collective(name="all_reduce", axis="batch_norm", count=count, size=size, duration=duration),),
    )


def _updated_parameters(workload: Workload, cluster: Cluster, strategy: Strategy) -> StepExchange:
    shard = strategy.mesh.dp_shard
    cost = collective_cost(cluster, strategy, "broadcast", shard)
    size = workload.gradient_size
    if strategy.exchange.compression is not None and strategy.exchange.transport != "hierarchical":
        size = size // 4  # changes in 8 bits
    duration = shard * cost.latency + size / cost.bandwidth
    return StepExchange(
        exposed=duration,
        collectives=(Collective(name="broadcast", axis="dp_shard", count=shard, size=size, duration=duration),),
    )


def unevenness(strategy: Strategy) -> float:
    """How much more a link carries where shards differ, over equal ones: all but the smallest part."""
    if not strategy.shards or strategy.mesh.dp_shard == 1:
        return 1.0
    return (1 - min(strategy.shards) / sum(strategy.shards)) / (1 - 1 / strategy.mesh.dp_shard)


def _gathered_parameters(
    workload: Workload, cluster: Cluster, strategy: Strategy, computed: ComputeTime, *, busy: float
) -> StepExchange:
    units = len(workload.blocks) + 1
    count = 2 * units * strategy.batch.accumulation
    cost = collective_cost(cluster, strategy, "all_gather", strategy.mesh.dp_shard)
    size = round(2 * strategy.batch.accumulation * workload.parameter_size * unevenness(strategy))
    if strategy.exchange.compression is not None:
        size //= 4  # in 8 bits
    total = count * cost.latency + size / cost.bandwidth
    beside = (computed.forward + computed.backward + computed.recompute) * strategy.batch.accumulation
    hidden = min(total, beside) if strategy.exchange.overlap else 0.0
    return StepExchange(
        exposed=total - hidden + busy * hidden,
        collectives=(Collective(name="all_gather", axis="dp_shard", count=count, size=size, duration=total),),
    )
