"""Strategies with their prices, and what a worker may use."""

from collections import Counter
from dataclasses import dataclass, replace

from meshwright.cost import Prediction, Pricer, Strategy, Worker, find_host, steps_over_exact
from meshwright.cost.hybrid import order_of
from meshwright.cost.memory import usable_memory
from meshwright.hardware import Cluster, Device
from meshwright.plan._axis_order import pin_of
from meshwright.plan._goal import Goal
from meshwright.plan._layouts import training_hosts
from meshwright.plan._space import strategies
from meshwright.plan._uneven_here import with_shards
from meshwright.units import Bytes, Seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Priced:
    """A strategy with its price.

    Args:
        strategy: every decision.
        prediction: what a step of it costs.
        memory_limit: what its fullest worker may use (B).
        start_share: what starting (compiling) costs each step of the run, where its length is known (s).
    """

    strategy: Strategy
    prediction: Prediction
    memory_limit: Bytes
    start_share: Seconds = 0.0

    @property
    def fits(self) -> bool:
        """Whether the fullest worker stays within its memory."""
        return self.prediction.memory.peak <= self.memory_limit

    @property
    def rank(self) -> tuple[Seconds, int, int]:
        """What it is ordered by: time to a loss, then fewer workers, then fewer departures from the script."""
        return self.pace(self.prediction.time.step), self.strategy.num_workers, num_departures(self.strategy)

    def pace(self, step: Seconds) -> Seconds:
        """A step's time, with its part of starting, for as much progress as an exact step makes (s).

        Args:
            step: predicted or measured (s).
        """
        return step * steps_over_exact(self.strategy) + self.start_share


def price_all(pricer: Pricer, goal: Goal) -> list[Priced]:
    """Every legal strategy with its price, in the order of the space."""
    graph, cluster = pricer.workload.graph, pricer.cluster
    space = strategies(graph, cluster, goal, shares=pricer.shares)
    if not _differs(cluster) and goal.pins.shards is None:
        return [price(pricer, goal, strategy) for strategy in space]
    return [
        price(pricer, goal, one)
        for strategy in space
        for one in with_shards(pricer, goal, strategy, worker_limits(cluster, goal, strategy))
    ]


def price(pricer: Pricer, goal: Goal, strategy: Strategy) -> Priced:
    """One strategy with its price."""
    prediction = pricer.predict(strategy)
    limit = memory_limit(pricer.cluster, goal, strategy)
    if _differs(pricer.cluster) and not strategy.mesh.splits_the_model and strategy.workers[0].device == "cpu":
        limits = worker_limits(pricer.cluster, goal, strategy)
        held = [(items, limits[worker]) for worker, items in pricer.held(strategy)]
        tightest, limit = max(held, key=lambda pair: pair[0].peak / pair[1])
        prediction = replace(prediction, memory=tightest)
    return Priced(
        strategy=strategy,
        prediction=prediction,
        memory_limit=limit,
        start_share=prediction.start / goal.steps if goal.steps else 0.0,
    )


def memory_limit(cluster: Cluster, goal: Goal, strategy: Strategy) -> Bytes:
    """What a worker may use: its device's memory, or the goal's limit; a CPU host's is shared by its workers.

    An accelerator's is used as far as predictions of peaks can be depended on, unless the goal says how far.
    """
    return min(worker_limits(cluster, goal, strategy).values())


def _differs(cluster: Cluster) -> bool:
    """Whether hosts have unequal memory."""
    return len({host.device.memory for host in training_hosts(cluster)}) > 1


def worker_limits(cluster: Cluster, goal: Goal, strategy: Strategy) -> dict[Worker, Bytes]:
    """What each worker may use (B), as `memory_limit`."""
    on_host = Counter(worker.host for worker in strategy.workers)
    return {worker: _limit(cluster, goal, worker, on_host[worker.host]) for worker in strategy.workers}


def capacity(cluster: Cluster, strategy: Strategy) -> Bytes:
    """What the smallest worker's device has for it."""
    return min(shares_of_memory(cluster, strategy))


def shares_of_memory(cluster: Cluster, strategy: Strategy) -> list[Bytes]:
    """What each worker's device has for it, in the order of ranks."""
    on_host = Counter(worker.host for worker in strategy.workers)
    return [_share(find_host(cluster, worker).device, on_host[worker.host]) for worker in strategy.workers]


def num_departures(strategy: Strategy) -> int:
    """How many choices differ from running the script as it is written."""
    kernels = strategy.kernels
    return sum(
        (
            strategy.num_workers > 1,
            strategy.sharding != "none",
            strategy.batch.accumulation > 1,
            bool(strategy.recompute),
            strategy.offload != "none",
            kernels.matrix_library != "default",
            kernels.optimizer != "as_written",
            kernels.allocator != "default",
            kernels.memory_format != "as_written",
            kernels.random != "default",
            kernels.compiled,
            strategy.precision.compute != "as_written",
            strategy.precision.reduction != "as_written",
            strategy.exchange.compression is not None,
            strategy.exchange.updates is not None,
        )
    )


def spans_hosts(strategy: Strategy) -> bool:
    """Whether its workers are on more than one host."""
    return len({worker.host for worker in strategy.workers}) > 1


def family(strategy: Strategy) -> tuple[int, int]:
    """What a trial must compare and a model may get wrong: workers × threads."""
    return strategy.num_workers, strategy.workers[0].threads


def choice(strategy: Strategy, name: str) -> object:
    """The value that a strategy has for a pin's name."""
    if name == "order":
        return pin_of(order_of(strategy))
    kernels, mesh, compression = strategy.kernels, strategy.mesh, strategy.exchange.compression
    updates = strategy.exchange.updates
    return {
        "workers": strategy.num_workers,
        "threads": strategy.workers[0].threads,
        "data": mesh.dp_replicate,
        "shard": mesh.dp_shard,
        "sharding": strategy.sharding,
        "shards": ":".join(map(str, strategy.shards)) or "equal",
        "tensor": mesh.tp,
        "sequence": strategy.sequence,
        "context": mesh.cp,
        "expert": mesh.ep,
        "pipeline": mesh.pp,
        "schedule": strategy.pipeline.schedule if strategy.pipeline else "none",
        "stages": strategy.pipeline.num_stages if strategy.pipeline else 1,
        "accumulation": strategy.batch.accumulation,
        "sharing": strategy.batch.sharing,
        "recompute": "all" if strategy.recompute else "none",
        "offload": strategy.offload,
        "matrix_library": kernels.matrix_library,
        "optimizer": kernels.optimizer,
        "allocator": kernels.allocator,
        "memory_format": kernels.memory_format,
        "random": kernels.random,
        "compiled": kernels.compiled,
        "transport": strategy.exchange.transport,
        "bucket_size": strategy.exchange.bucket_size,
        "reduction": strategy.precision.reduction,
        "compression": compression.method if compression else "none",
        "compression_rank": compression.rank if compression else 0,
        "compression_share": compression.share if compression else 1.0,
        "updates": updates.kind if updates else "every_step",
        "interval": updates.interval if updates else 1,
        "islands": updates.islands if updates else 1,
        "outer_rate": updates.rate if updates else 1.0,
        "outer_momentum": updates.momentum if updates else 0.0,
        "fragments": updates.fragments if updates else 1,
        "delay": updates.delay if updates else 0,
    }[name]


def _limit(cluster: Cluster, goal: Goal, worker: Worker, neighbours: int) -> Bytes:
    device = find_host(cluster, worker).device
    limit = min(goal.memory_limit or usable_memory(device), device.memory)
    return limit // neighbours if device.kind == "cpu" else limit


def _share(device: Device, neighbours: int) -> Bytes:
    return device.memory // neighbours if device.kind == "cpu" else device.memory
