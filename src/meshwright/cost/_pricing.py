"""The price of strategies on a cluster: computing, exchange, memory, energy and money put together."""

from collections import Counter
from dataclasses import replace
from functools import cached_property
from math import ceil, exp

import numpy as np

from meshwright.cost._compute import ComputeTime, compute_time, optimizer_time
from meshwright.cost._exchange_cost import step_exchange
from meshwright.cost._lossy import CODED
from meshwright.cost._meetings import exchange_apart
from meshwright.cost._memory import highest, peaks
from meshwright.cost._prediction import Collective, MemoryBreakdown, Moment, Prediction, TimeBreakdown
from meshwright.cost._rates import Rates
from meshwright.cost._strategy import Batch, Kernels, Strategy, Worker
from meshwright.cost._workload import Workload
from meshwright.cost.hybrid import HybridPricer, layout_of
from meshwright.errors import PlanError
from meshwright.graph import Graph
from meshwright.hardware import Cluster, Correction, Device, Host
from meshwright.units import Dollars, Joules, Seconds

# The quantile of the normal distribution that leaves 5 % above it.
_FIVE_PERCENT = 1.645
# Share of an exchange hidden behind the backward that takes time from it: through shared memory the worker itself
# copies and adds, with or without idle cores; gloo's thread needs a core, and waits for its peer part of the time. On
# an accelerator the link's own engine moves the bytes.
_BUSY_SHARE = {"shared_memory": 1.0, "hierarchical": 0.8, "gloo": 0.6, "direct": 0.6, "direct_packed": 0.8, "nccl": 0.0}
# Times that a worker with neighbours reads or writes its gradients besides the exchange: they are copied into the
# memory that they are sent from, and divided by the batch's weight there.
_GRADIENT_PASSES = 4
# The step engine's own Python for one micro-batch: 9 µs a step of a small network here.
_ENGINE: Seconds = 9e-6
# Compiling, seen on this project's six example models (4 to 24 s): once, and per operation of the graph.
_COMPILE_START: Seconds = 2.0
_COMPILE_PER_OPERATION: Seconds = 0.02

_UNCORRECTED = Correction()


def predict(graph: Graph, cluster: Cluster, strategy: Strategy, *, correction: Correction = _UNCORRECTED) -> Prediction:
    """What one step of a strategy costs.

    Args:
        correction: how far earlier predictions on this machine were off.

    Raises:
        HardwareError: the cluster lacks a rate or a link that the strategy needs.
        PlanError: the strategy names a host that the cluster does not have.
    """
    return Pricer(graph, cluster, correction=correction).predict(strategy)


def find_host(cluster: Cluster, worker: Worker) -> Host:
    """The cluster's entry for the host and kind of device that a worker uses.

    Raises:
        PlanError: the cluster has no such host.
    """
    kind = worker.device.split(":")[0]
    for host in cluster.hosts:
        if host.device.kind == kind and _is_named(host, worker.host):
            return host
    known = [name for host in cluster.hosts for name in host_names(host)]
    raise PlanError(
        f"worker {worker.rank} runs on {kind} of host {worker.host!r}, which cluster {cluster.name!r} does not have",
        alternatives=[f"hosts there: {', '.join(dict.fromkeys(known))}"],
        command="meshwright hardware",
    )


def host_names(host: Host) -> tuple[str, ...]:
    """Names of a host entry's machines: its own, or `name-0`, `name-1`, … where it stands for several."""
    return (host.name,) if host.count == 1 else tuple(f"{host.name}-{index}" for index in range(host.count))


def _is_named(host: Host, name: str) -> bool:
    """Whether a name is one of `host_names`, which may be thousands."""
    if host.count == 1:
        return name == host.name
    first, _, number = name.rpartition("-")
    return first == host.name and number.isdecimal() and int(number) < host.count and number == str(int(number))


def rank_examples(strategy: Strategy) -> tuple[int, ...]:
    """Examples of the global batch that each data rank gets, rounded up."""
    total = sum(strategy.batch.shares)
    return tuple(ceil(strategy.batch.size * share / total) for share in strategy.batch.shares)


class Pricer:
    """Prices many strategies of one graph on one cluster; what they have in common is computed once.

    Args:
        graph: the step.
        cluster: hosts, links and their rates.
        correction: how far earlier predictions on this machine were off.
    """

    def __init__(self, graph: Graph, cluster: Cluster, *, correction: Correction = _UNCORRECTED) -> None:
        self.workload = Workload(graph)
        self.cluster = cluster
        self.correction = correction
        self._rates: dict[tuple[object, ...], Rates] = {}
        self._computed: dict[tuple[object, ...], ComputeTime] = {}
        self._held: dict[tuple[object, ...], dict[Moment, MemoryBreakdown]] = {}

    @cached_property
    def hybrid(self) -> HybridPricer:
        """Prices strategies that split the model, and all of accelerators."""
        return HybridPricer(self.workload.graph, self.cluster, correction=self.correction)

    def predict(self, strategy: Strategy) -> Prediction:
        """What one step of a strategy costs: the slowest worker's time, the fullest worker's memory."""
        if strategy.mesh.splits_the_model or strategy.workers[0].device != "cpu":
            return self._hybrid(strategy)
        ranks = self._distinct_ranks(strategy)
        priced = [self._time(strategy, worker, processes, examples) for worker, processes, examples in ranks]
        time, collectives = max(priced, key=lambda pair: pair[0].step)
        memory = max((items for _, items in self.held(strategy)), key=lambda items: items.peak)
        factor = exp(_FIVE_PERCENT * self.correction.spread)
        energy, money = self._energy_and_money(strategy, time.step)
        return Prediction(
            rates="measured" if self.cluster.identity else "written",
            time=time,
            low=time.step / factor,
            high=time.step * factor,
            memory=memory,
            collectives=collectives,
            flops=float((self.workload.flops.at(strategy.batch.size) * self.workload.repeats).sum()),
            energy=energy,
            money=money,
            start=self.start(strategy.kernels),
        )

    def held(self, strategy: Strategy) -> list[tuple[Worker, MemoryBreakdown]]:
        """One worker of each sort of a whole model, with what it holds."""
        ranks = self._distinct_ranks(strategy)
        return [(worker, self._memory(strategy, worker, examples)) for worker, _, examples in ranks]

    def held_by(self, strategy: Strategy, worker: Worker) -> MemoryBreakdown:
        """What one worker of a whole model holds."""
        return self.peak_of(strategy, worker)[0]

    def peak_of(self, strategy: Strategy, worker: Worker) -> tuple[MemoryBreakdown, Moment]:
        """What one worker of a whole model holds, and when."""
        examples = rank_examples(strategy)
        moments = self._moments(strategy, worker, examples[worker.rank % len(examples)])
        moment = highest(moments)
        return moments[moment], moment

    def start(self, kernels: Kernels) -> Seconds:
        """What compiling takes before the first step, where it is asked for (s)."""
        return _COMPILE_START + _COMPILE_PER_OPERATION * len(self.workload.repeats) if kernels.compiled else 0.0

    def _hybrid(self, strategy: Strategy) -> Prediction:
        find_host(self.cluster, strategy.workers[0])
        layout = layout_of(strategy, self.hybrid.units, self.hybrid.hosts)
        return replace(self.hybrid.predict(layout), start=self.start(strategy.kernels))

    def _distinct_ranks(self, strategy: Strategy) -> list[tuple[Worker, int, int]]:
        """One worker of each sort, with the number of workers on its host and its examples."""
        on_host = Counter(worker.host for worker in strategy.workers)
        examples = rank_examples(strategy)
        sorts: dict[tuple[object, ...], tuple[Worker, int, int]] = {}
        for rank, worker in enumerate(strategy.workers):
            share = examples[rank % len(examples)]
            device = find_host(self.cluster, worker).device
            key = (device.name, device.memory, worker.threads, on_host[worker.host], share, _parts(strategy, worker))
            sorts.setdefault(key, (worker, on_host[worker.host], share))
        return list(sorts.values())

    def _time(
        self, strategy: Strategy, worker: Worker, processes: int, examples: int
    ) -> tuple[TimeBreakdown, tuple[Collective, ...]]:
        device = find_host(self.cluster, worker).device
        rates = self._rates_of(device, threads=worker.threads, processes=processes)
        computed = self._compute(strategy, rates, examples)
        full = device.kind == "cpu" and processes * worker.threads >= device.cores
        transport = strategy.exchange.transport
        busy = _BUSY_SHARE[transport] if full or transport == "shared_memory" else 0.0
        # coding was counted in copies of that many gradients, not of what a bucket has
        copying = float(rates.bandwidth("copy", np.array([float(CODED)]))[0])
        price = step_exchange if strategy.exchange.updates is None else exchange_apart
        exchange = price(self.workload, self.cluster, strategy, computed, busy=busy, copying=copying)
        micro_batches, factor = strategy.batch.accumulation, self.correction.time
        shards = _parts(strategy, worker) if strategy.sharding != "none" else 1
        batch = np.array([max(1.0, self.workload.graph.batch_bytes.at(examples))])
        variant = "default" if device.kind == "cpu" else "to_device"
        splitting = float((batch / rates.bandwidth("copy", batch, variant=variant))[0])
        time = TimeBreakdown(
            forward=factor * micro_batches * computed.forward,
            backward=factor * micro_batches * computed.backward,
            recompute=factor * micro_batches * computed.recompute,
            optimizer=factor * optimizer_time(self.workload, rates, kernels=strategy.kernels, shards=shards),
            communication=factor * exchange.exposed,
            overhead=factor * (_ENGINE * micro_batches + splitting + self._packing(strategy, rates)),
        )
        return time, exchange.collectives

    def _rates_of(self, device: Device, *, threads: int, processes: int) -> Rates:
        key = (device.name, threads, processes)
        if key not in self._rates:
            self._rates[key] = Rates(device, threads=threads, processes=processes)
        return self._rates[key]

    def _packing(self, strategy: Strategy, rates: Rates) -> Seconds:
        """Copying gradients to where they are sent from, bucket by bucket."""
        if strategy.num_workers == 1 or _are_alone(strategy):
            return 0.0
        size = float(self.workload.gradient_size)
        piece = np.array([max(1.0, min(size, float(strategy.exchange.bucket_size)))])
        return _GRADIENT_PASSES * size / float(rates.bandwidth("copy", piece)[0])

    def _compute(self, strategy: Strategy, rates: Rates, examples: int) -> ComputeTime:
        kernels = strategy.kernels
        micro = examples / strategy.batch.accumulation
        device = (rates.device.name, rates.threads, rates.processes)
        key = (*device, replace(kernels, optimizer="as_written"), strategy.precision, micro, strategy.recompute)
        if key not in self._computed:
            self._computed[key] = compute_time(
                self.workload, rates, kernels=kernels, precision=strategy.precision, examples=micro,
                recompute=strategy.recompute,
            )  # fmt: skip
        return self._computed[key]

    def _memory(self, strategy: Strategy, worker: Worker, examples: int) -> MemoryBreakdown:
        moments = self._moments(strategy, worker, examples)
        return moments[highest(moments)]

    def _moments(self, strategy: Strategy, worker: Worker, examples: int) -> dict[Moment, MemoryBreakdown]:
        device = find_host(self.cluster, worker).device
        parts = _parts(strategy, worker)
        key = (device.name, strategy.mesh, strategy.sharding, parts, strategy.batch.accumulation, strategy.recompute,
               strategy.kernels.optimizer, strategy.exchange, strategy.precision, examples)  # fmt: skip
        if key not in self._held:
            found = peaks(self.workload, device, strategy, examples=examples, parts=parts)
            self._held[key] = {moment: items.scaled(self.correction.memory) for moment, items in found.items()}
        return self._held[key]

    def _energy_and_money(self, strategy: Strategy, step: Seconds) -> tuple[Joules, Dollars]:
        """Every device in use draws its design power for the whole step; a CPU host counts once."""
        used = {(worker.host, worker.device): find_host(self.cluster, worker).device for worker in strategy.workers}
        power = sum(device.power for device in used.values())
        price = sum(device.price for device in used.values())
        return power * step, price * step / 3600

    def shares(self, workers: tuple[Worker, ...]) -> tuple[int, ...]:
        """Each worker's share of the batch: equal on equal devices, otherwise by the speed of each with an even share.

        Unequal shares are whole examples, rounded by largest remainder so that they add up to the batch.
        """
        devices = [find_host(self.cluster, worker).device for worker in workers]
        if len({device.name for device in devices}) == 1:
            return (1,) * len(workers)
        size = self.workload.graph.batch_size
        on_host = Counter(worker.host for worker in workers)
        speeds = []
        for worker, device in zip(workers, devices, strict=True):
            rates = self._rates_of(device, threads=worker.threads, processes=on_host[worker.host])
            even = Strategy(workers=(worker,), batch=Batch(size=size, shares=(1,)))
            computed = self._compute(even, rates, max(1, size // len(workers)))
            speeds.append(1 / (computed.forward + computed.backward))
        return _apportioned(size, speeds)


def _parts(strategy: Strategy, worker: Worker) -> float:
    """In how many parts as large as a worker's what is in shards would be; infinite for one without any."""
    if not strategy.shards:
        return strategy.mesh.dp_shard
    own = strategy.shards[worker.rank % len(strategy.shards)]
    return sum(strategy.shards) / own if own else float("inf")


def _are_alone(strategy: Strategy) -> bool:
    """Whether every island is one worker, which sends no gradients."""
    updates = strategy.exchange.updates
    return updates is not None and updates.islands == strategy.num_workers


def _apportioned(size: int, weights: list[float]) -> tuple[int, ...]:
    total = sum(weights)
    exact = [size * weight / total for weight in weights]
    shares = [int(value) for value in exact]
    remainders = sorted(range(len(exact)), key=lambda index: shares[index] - exact[index])
    for index in remainders[: size - sum(shares)]:
        shares[index] += 1
    return tuple(shares)
