"""Prices layouts of one graph on one cluster: time, memory, energy and money; what they share is computed once."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from math import exp

import numpy as np

from meshwright.cost._lossy import sends_less
from meshwright.cost._meetings import Meetings
from meshwright.cost._prediction import Collective, MemoryBreakdown, Prediction, StageTime, TimeBreakdown
from meshwright.cost._rates import Rates
from meshwright.cost._strategy import Kernels, Precision
from meshwright.cost._workload import Column, Workload
from meshwright.cost.accelerator import Calibration, Habits, calibration
from meshwright.cost.hybrid._apart import meetings
from meshwright.cost.hybrid._data_exchange import DataExchange, Shards, Synchronised
from meshwright.cost.hybrid._devices import devices_of
from meshwright.cost.hybrid._exchanges import Exchanges
from meshwright.cost.hybrid._held import Stages, carrying, held, least_held
from meshwright.cost.hybrid._layout import Layout, Replica, timing
from meshwright.cost.hybrid._loading import Loading
from meshwright.cost.hybrid._local import Division, local_graph
from meshwright.cost.hybrid._pieces import Pieces, Weights, pieces_of, weights_of, with_blocks_away
from meshwright.cost.hybrid._pipeline_time import in_flight
from meshwright.cost.hybrid._price import Price
from meshwright.cost.hybrid._ring import ring_times
from meshwright.cost.hybrid._stage_durations import stage_durations
from meshwright.cost.hybrid._step import Run, StageTimes, broken_down, run_of, unit_times
from meshwright.cost.hybrid._topology import workers_on
from meshwright.cost.hybrid._units import Units, flops_of, units_of
from meshwright.graph import Graph, in_sections
from meshwright.hardware import Cluster, Correction, Host
from meshwright.units import BytesPerSecond, Dollars, Seconds, Watts

_FIVE_PERCENT = 1.645  # quantile of the normal distribution that leaves 5 % above it
_UNCORRECTED = Correction()


class HybridPricer:
    """Prices layouts.

    Args:
        graph: the whole step, with its splits.
        cluster: hosts and links.
        correction: how far earlier predictions on this machine were off.
        fitted: what is known of accelerators of the catalogue; None: the package's own calibration.
        habits: of what runs on them; None: this product's.
    """

    def __init__(
        self,
        graph: Graph,
        cluster: Cluster,
        *,
        correction: Correction = _UNCORRECTED,
        fitted: Calibration | None = None,
        habits: Habits | None = None,
    ) -> None:
        known = fitted or calibration()
        self.graph = graph = in_sections(graph)
        self.cluster = cluster
        self.correction = correction
        accelerated = tuple(host for host in cluster.hosts if host.device.kind != "cpu")
        self.hosts: tuple[Host, ...] = accelerated or cluster.hosts
        self.units: Units = units_of(graph)
        self.devices = devices_of(cluster, self.hosts, known, habits or known.own)
        self.exchanges = Exchanges(
            graph, cluster, self.hosts, fitted=self.devices.collectives, habits=self.devices.own_habits
        )
        self.data = DataExchange(graph, self.exchanges)
        self.loading = Loading(graph, self.hosts)
        self.local = lru_cache(maxsize=None)(self._local)
        self.pieces = lru_cache(maxsize=None)(self._pieces)
        self._known: dict[tuple, list[tuple[Pieces, StageTimes]]] = {}

    def price(self, layout: Layout) -> Price:
        """Time, memory, energy and money of a step."""
        stages = self.stages(layout)
        parts = [self._replica(layout, stages, replica) for replica in layout.replicas]
        time, collectives = max(((time, listed) for time, listed, _ in parts), key=lambda pair: pair[0].step)
        memory = tuple(
            max((items[rank] for _, _, items in parts), key=lambda one: one.peak) for rank in range(stages.workers)
        )
        power, price = self.draw(layout)
        return Price(
            time=time, memory=memory, collectives=collectives, energy=power * time.step,
            money=price * time.step / 3600, steps=layout.steps_over_exact, loading=self.loading.longest(layout),
        )  # fmt: skip

    def predict(self, layout: Layout) -> Prediction:
        """A layout's price as a prediction."""
        price = self.price(layout)
        # Fitted intervals hold what they should by themselves; what was corrected here has a spread of its own.
        fitted = self.devices.own_habits is not None and self.correction == _UNCORRECTED
        factor = 1.0 if fitted else exp(_FIVE_PERCENT * self.correction.spread)
        below, above = self.devices.interval()
        rates = "fitted" if self.devices.own_habits is not None else "measured" if self.cluster.identity else "written"
        return Prediction(
            rates=rates,
            time=price.time,
            low=price.step / factor * below,
            high=price.step * factor * above,
            memory=self.tightest(layout)[0],
            collectives=price.collectives,
            flops=self.flops,
            energy=price.energy,
            money=price.money,
            stages=self._stage_times(layout) if layout.mesh.pp > 1 else (),
            loading=price.loading,
        )

    def tightest(self, layout: Layout) -> tuple[MemoryBreakdown, int]:
        """What the worker holds whose device has least to spare, as a share of its memory, and that kind of device."""
        _, kind, items = max(self.held(layout), key=lambda one: one[2].peak / self.hosts[one[1]].device.memory)
        return items, kind

    def held(self, layout: Layout) -> Iterator[tuple[int, int, MemoryBreakdown]]:
        """The stage, the kind of training host and the memory of every worker of each replica's pipeline."""
        stages = self.stages(layout)
        for replica in layout.replicas:
            listed = zip(replica.kinds, self.memory(layout, stages, replica), strict=True)
            yield from ((stage, kind, items) for stage, (kind, items) in enumerate(listed))

    def _stage_times(self, layout: Layout) -> tuple[StageTime, ...]:
        """What one replica's stages take for a micro-batch."""
        replica = layout.replicas[0]
        kinds, transfers = self.kinds(layout, replica), self.transfers(layout, replica)
        return stage_durations(self.stages(layout), kinds, transfers, factor=self.correction.time)

    @cached_property
    def flops(self) -> float:
        """FLOP of one step over all workers."""
        return flops_of(self.graph)

    def stages(self, layout: Layout) -> Stages:
        """The units of every stage, by kind."""
        kinds = self.units.kinds
        ends = (*layout.bounds[1:], len(kinds))
        one_hot = np.eye(self.units.num_kinds)[kinds]
        summed = np.vstack((np.zeros(self.units.num_kinds), np.cumsum(one_hot, axis=0)))
        chosen = np.zeros(len(kinds))
        chosen[list(layout.recomputed)] = 1.0
        again = np.vstack((np.zeros(self.units.num_kinds), np.cumsum(one_hot * chosen[:, None], axis=0)))
        low, high = list(layout.bounds), list(ends)
        return Stages(units=summed[high] - summed[low], again=again[high] - again[low], workers=layout.mesh.pp)

    def draw(self, layout: Layout) -> tuple[Watts, Dollars]:
        """Power of all devices in use (W), and their price an hour ($); a processor counts once."""
        per_place = layout.mesh.tp * layout.mesh.cp
        power = price = 0.0
        for replica in layout.replicas:
            for kind in replica.kinds:
                device = self.hosts[kind].device
                count = replica.count * per_place
                share = 1 / self.processes(layout, kind)[1]
                power += device.power * count * share
                price += device.price * count * share
        return power, price

    def kinds(self, layout: Layout, replica: Replica) -> list[tuple[Pieces, StageTimes]]:
        """Pieces and times for every worker of a replica's pipeline."""
        key = timing(layout), replica
        if key not in self._known:
            self._known[key] = self._kinds(layout, replica)
        return self._known[key]

    def _kinds(self, layout: Layout, replica: Replica) -> list[tuple[Pieces, StageTimes]]:
        _, weights = self.local(layout.division)
        found: dict[int, tuple[Pieces, StageTimes]] = {}
        for kind in set(replica.kinds):
            shards = self.data.shards(layout, weights, copying=self.copying(layout, kind))
            found[kind] = self.pieces_for(layout, replica, kind), self.times(layout, replica, kind, shards)
        return [found[kind] for kind in replica.kinds]

    def times(self, layout: Layout, replica: Replica, kind: int, shards: Shards | None) -> StageTimes:
        """Times of a replica's micro-batch on a kind of training host, with what shards of parameters take."""
        listed = self.exchanges.of_units(layout, replica.examples)
        way = self.devices.host_link(kind) if layout.offload == "activations" else float("inf")
        return unit_times(
            self.exchanges, listed, self.pieces_for(layout, replica, kind), shards=shards,
            host=self.devices.host(kind, layout), way=way,
        )  # fmt: skip

    def memory(self, layout: Layout, stages: Stages, replica: Replica) -> tuple[MemoryBreakdown, ...]:
        """What every worker of a replica's pipeline holds; those with the same stages hold the same."""
        flying, late = in_flight(layout.form), layout.schedule == "asynchronous"
        found: dict[tuple, MemoryBreakdown] = {}
        listed = []
        for rank, kind in enumerate(replica.kinds):
            own = slice(rank, None, stages.workers)
            key = kind, stages.units[own].tobytes(), stages.again[own].tobytes(), flying[own], rank if late else 0
            if key not in found:
                found[key] = self.memory_of(layout, stages, replica, rank)
            listed.append(found[key])
        return tuple(listed)

    def memory_of(self, layout: Layout, stages: Stages, replica: Replica, rank: int) -> MemoryBreakdown:
        """What one worker of a replica's pipeline holds; the other workers' stages do not matter to it."""
        _, weights = self.local(layout.division)
        kind = replica.kinds[rank]
        pieces = self.pieces_for(layout, replica, kind)
        items = held(self.graph, self.hosts[kind].device, layout, stages, weights, pieces, rank=rank, replica=replica)
        return items.scaled(self.correction.memory)

    def weighs(self, layout: Layout) -> float:
        """Parameters, gradients and state of all stages together: less than a pipeline's workers hold (B)."""
        _, weights = self.local(layout.division)
        units = np.bincount(self.units.kinds, minlength=self.units.num_kinds).astype(np.float64)
        return least_held(self.graph, layout, units, weights)

    def weight_of(self, layout: Layout, kind: int) -> float:
        """Parameters, gradients and state of one unit of a kind (B)."""
        _, weights = self.local(layout.division)
        return least_held(self.graph, layout, np.eye(self.units.num_kinds)[kind], weights)

    def pieces_for(self, layout: Layout, replica: Replica, kind: int) -> Pieces:
        """Pieces of a replica's micro-batch on one of the cluster's training hosts."""
        precision = layout.precision
        if precision.reduction != "as_written":
            precision = replace(precision, reduction="as_written")
        found = self.pieces(
            kind, layout.division, replica.examples / layout.mesh.cp, layout.kernels, precision,
            self.processes(layout, kind), layout.mesh.cp if layout.attention == "ring" else 1,
        )  # fmt: skip
        return with_blocks_away(found) if layout.offload == "activations" else found

    def processes(self, layout: Layout, kind: int) -> tuple[int, int]:
        """Threads of a worker, and how many workers share its machine's processor and memory."""
        host = self.hosts[kind]
        return layout.threads, workers_on(host, threads=layout.threads, workers=layout.mesh.num_workers)

    def transfers(self, layout: Layout, replica: Replica) -> list[Seconds]:
        """Time over every cut (s)."""
        ways, carried = self.exchanges.ways(layout, len(layout.bounds)), partial(self._carried, layout, replica)
        each = zip(map(carried, layout.bounds[1:]), ways, strict=True)
        return [self.exchanges.transfer(layout, size, apart=way) for size, way in each]

    def least_transfer(self, layout: Layout, replica: Replica, bounds: Iterable[int], *, apart: int) -> Seconds:
        """Time over a cut as long as one of `Exchanges.ways`, before the unit of some that gets least (s)."""
        size = min(self._carried(layout, replica, bound) for bound in bounds)
        return self.exchanges.transfer(layout, size, apart=apart)

    def _carried(self, layout: Layout, replica: Replica, bound: int) -> float:
        """What one worker hands over a cut; with the sequence split, its part (B)."""
        scattered = layout.mesh.tp if layout.sequence == "split" else 1
        return self.crossing(bound, replica.examples / layout.mesh.cp) / scattered

    def crossing(self, bound: int, examples: float) -> float:
        """What crosses to a stage that begins with a unit (B)."""
        size = self.units.cuts.get(bound)
        return size.at(examples) if size is not None else 0.0

    def update(self, layout: Layout, replica: Replica, kind: int, units: Column) -> Seconds:
        """The optimizer's step on one worker of a replica's pipeline (s).

        Args:
            kind: of training host on which it stands.
            units: of each kind on it.
        """
        _, weights = self.local(layout.division)
        shard = layout.parts(replica)
        way = self.devices.host_link(kind)
        parts = weights.in_shards(layout.expert_ratio)
        carried = carrying(self.graph, layout, units, parts, way, shard=shard)
        return self.updated(layout, kind, units, shards=shard) + carried

    def updated(self, layout: Layout, kind: int, units: Column, *, shards: float) -> Seconds:
        """The same without what is carried from the host's memory and back (s).

        Args:
            shards: in how many parts as large as the worker's it is done.
        """
        _, weights = self.local(layout.division)
        rates = self._rates(kind, self.processes(layout, kind))
        elements = float(units @ weights.in_shards(layout.expert_ratio).elements)
        return self.devices.update(kind, self.whole, rates, layout, elements=elements, shards=shards)

    def _gradients(self, size: float, weights: Weights, units: Column) -> float:
        """Bytes of gradients on the network, where it is known how wide their elements are there."""
        width = self.devices.habits.gradient_bytes if self.devices.own_habits is not None else 0.0
        whole = float(units @ weights.gradients)
        return float(size) / whole * float(units @ weights.elements) * width if width and whole else float(size)

    @cached_property
    def whole(self) -> Workload:
        """The whole graph's workload."""
        return Workload(self.graph)

    def _replica(
        self, layout: Layout, stages: Stages, replica: Replica
    ) -> tuple[TimeBreakdown, tuple[Collective, ...], tuple[MemoryBreakdown, ...]]:
        kinds = self.kinds(layout, replica)
        habits = self.devices.own_habits
        run = run_of(layout, stages, kinds, self.transfers(layout, replica), habits=habits)
        rank, time, gradients = self._last(layout, stages, replica, run)
        late = max(0.0, self.loading.of(layout, replica) - time.step)
        time = replace(time, waiting=time.waiting + late) if late else time
        collectives = (*self._within(layout, stages, replica, rank), *gradients)
        return time, collectives, self.memory(layout, stages, replica)

    def _last(
        self, layout: Layout, stages: Stages, replica: Replica, run: Run
    ) -> tuple[int, TimeBreakdown, tuple[Collective, ...]]:
        """The worker that ends last, after its gradients and its update."""
        on_cpu = self.hosts[replica.kinds[0]].device.kind == "cpu"
        overhead = self.devices.step(layout, self.whole.trainable_elements) + self._feeding(layout, replica)
        known: dict[tuple, tuple[Synchronised, Seconds]] = {}  # workers with the same stages
        ended = []
        for rank, kind in enumerate(replica.kinds):
            units, window = stages.units[rank :: stages.workers].sum(axis=0), 0.0 if on_cpu else float(run.last[rank])
            key = kind, units.tobytes(), window
            if key not in known:
                known[key] = self._after(layout, units, window, kind), self.update(layout, replica, kind, units)
            after, optimizer = known[key]
            end = run.ends[rank] + after.exposed + optimizer + overhead
            outer = self.meetings(layout, units, end, self.copying(layout, kind))
            ended.append((end + outer.exposed + outer.passes, after, outer, optimizer))
        rank = max(range(stages.workers), key=lambda one: ended[one][0])
        end, after, outer, optimizer = ended[rank]
        time = broken_down(
            run, rank, end=end, exposed=after.exposed + outer.exposed + outer.passes, optimizer=optimizer,
            overhead=overhead, factor=self.correction.time,
        )  # fmt: skip
        return rank, time, (*after.collectives, *outer.collectives)

    def _after(self, layout: Layout, units: Column, window: Seconds, kind: int) -> Synchronised:
        """What follows the last backward, which takes so long, of a worker on a kind of host with these units."""
        _, weights = self.local(layout.division)
        return self.data.synchronised(
            layout, self._gradients(float(units @ weights.gradients), weights, units),
            self._gradients(float(units @ weights.expert), weights, units), float(units @ weights.parameters),
            window=window, copying=self.copying(layout, kind),
        )  # fmt: skip

    def meetings(self, layout: Layout, units: Column, step: Seconds, copying: BytesPerSecond) -> Meetings:
        """What meetings of islands add to a step of one worker, which has these units."""
        if layout.exchange.updates is None:
            return Meetings()
        shards = layout.shard_group if layout.sharding == "parameters" else 1
        elements = float(units @ self.local(layout.division)[1].elements) / shards
        return meetings(layout, self.graph, self.exchanges, elements=elements, step=step, copying=copying)

    def _feeding(self, layout: Layout, replica: Replica) -> Seconds:
        """What carrying a data rank's batch to its devices takes, before the first forward (s)."""
        way = self.devices.host_link(replica.kinds[0])
        return self.graph.batch_bytes.at(replica.examples * layout.micro_batches) / way if way else 0.0

    def _within(self, layout: Layout, stages: Stages, replica: Replica, rank: int) -> tuple[Collective, ...]:
        """Collectives of a step inside the model, of one worker of the pipeline."""
        units = stages.units[rank :: stages.workers].sum(axis=0)
        again = stages.again[rank :: stages.workers].sum(axis=0)
        count = layout.micro_batches
        listed = self.exchanges.of_units(layout, replica.examples)
        found = [
            Collective(
                name=item.name, axis=item.axis, count=round(count * float(units @ item.count)),
                size=round(count * float(units @ item.size)),
                duration=count * float(units @ (item.forward + item.backward) + again @ item.forward),
            )
            for item in listed if float(units @ item.size) > 0
        ]  # fmt: skip
        if layout.mesh.pp > 1:
            every = zip(layout.bounds[1:], self.transfers(layout, replica), strict=True)
            around = (rank, (rank + 1) % stages.workers)  # of the stages there, the cut before is its own
            own = [(bound, time) for stage, (bound, time) in enumerate(every, 1) if stage % stages.workers in around]
            sizes, times = [self._carried(layout, replica, bound) for bound, _ in own], [time for _, time in own]
            found.append(Collective(name="send", axis="pp", count=2 * count * len(own),
                                    size=round(2 * count * sum(sizes)), duration=2 * count * sum(times)))  # fmt: skip
        found += self.data.in_shards(layout, self.local(layout.division)[1], units)
        return tuple(found)

    def _local(self, division: Division) -> tuple[Workload, Weights]:
        graph = local_graph(self.graph, division)
        return Workload(graph), weights_of(graph, self.units)

    def _pieces(
        self, kind: int, division: Division, examples: float, kernels: Kernels, precision: Precision,
        processes: tuple[int, int], ring: int = 1,
    ) -> Pieces:  # fmt: skip
        workload, _ = self.local(division)
        rates = self._rates(kind, processes)
        times, launched = self.devices.times(
            kind, workload, rates, kernels=kernels, precision=precision, examples=examples
        )
        if ring > 1 and self.exchanges.on_processors:
            times = ring_times(workload, rates, times, examples=examples, degree=ring)
        return pieces_of(workload, self.units, times, launched, examples=examples)

    def copying(self, layout: Layout, kind: int) -> BytesPerSecond:
        """How fast a worker copies gradients, where it encodes them or meets others; infinite elsewhere (B/s)."""
        if layout.exchange.updates is None and not sends_less(layout.exchange, layout.precision):
            return float("inf")
        rates = self._rates(kind, self.processes(layout, kind))
        return self.devices.copying(kind, rates, float(layout.exchange.bucket_size))

    def _rates(self, kind: int, processes: tuple[int, int]) -> Rates:
        threads, workers = processes
        return Rates(self.hosts[kind].device, threads=threads, processes=workers)
