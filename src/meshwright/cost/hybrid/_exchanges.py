"""What the workers of a hybrid strategy exchange, axis by axis: priced by kind of unit, or by stage."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import Literal

import numpy as np

from meshwright.cost._communication import CollectiveCost, carrier_within_host, processes_cost
from meshwright.cost._mesh import Axis
from meshwright.cost._workload import Column, within
from meshwright.cost.accelerator import Collectives, Habits, Slowdown, tensor_exposed
from meshwright.cost.hybrid._layout import Layout
from meshwright.cost.hybrid._topology import Group, group_cost, workers_on
from meshwright.graph import Graph, SplitExchange, Splits
from meshwright.hardware import STAGED, Cluster, CollectiveName, Host
from meshwright.units import Seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitExchange:
    """One collective of the units, for one micro-batch.

    Args:
        name: which.
        axis: mesh axis.
        count: calls, by kind of unit.
        size: bytes, by kind of unit.
        forward: time in the forward, by kind of unit (s).
        backward: time in the backward (s).
        waited_forward: what of `forward` computing waits for (s).
        waited_backward: what of `backward` computing waits for (s).
        hideable: whether attention's computing hides it.
    """

    name: CollectiveName
    axis: str
    count: Column
    size: Column
    forward: Column
    backward: Column
    waited_forward: Column
    waited_backward: Column
    hideable: bool = False


class Exchanges:
    """Prices of collectives over the axes of meshes on one cluster.

    Args:
        graph: the whole one.
        cluster: hosts and links.
        hosts: those that train.
        fitted: times of collectives between accelerators of the catalogue; None: by the links' own figures.
        habits: how they run beside computing there.
    """

    def __init__(
        self, graph: Graph, cluster: Cluster, hosts: tuple[Host, ...],
        *, fitted: Collectives | None = None, habits: Habits | None = None,
    ) -> None:  # fmt: skip
        self._graph = graph
        self._cluster = cluster
        self._hosts = hosts
        self._kinds = _kinds(graph)
        self._known = lru_cache(maxsize=None)(self._cost)
        self._known_parts: dict[tuple, tuple[UnitExchange, ...]] = {}
        self._timed = lru_cache(maxsize=2**16)(self._fitted_time)
        self.fitted = fitted
        self.habits = habits if fitted is not None else None

    @property
    def on_processors(self) -> bool:
        """Whether workers are processes on hosts' cores."""
        return self._hosts[0].device.kind == "cpu"

    def places(self, layout: Layout) -> int:
        """Workers of a layout that the smallest host has room for."""
        each = (one.device.cores // layout.threads if self.on_processors else one.devices for one in self._hosts)
        return max(1, min(each))

    def reaches(self, layout: Layout) -> tuple[int, ...]:
        """Devices of a host and of a rack: prices tell by them alone where the workers of a group stand."""
        host = min(self._hosts, key=lambda one: one.devices)
        if self.on_processors:
            return (workers_on(host, threads=layout.threads, workers=layout.mesh.num_workers),)
        if self.fitted is not None:
            return self.fitted.reaches
        racks = (link.reach or host.devices for link in self._cluster.links if link.tier == "rack")
        return (host.devices, *racks)

    def beside(self, layout: Layout) -> tuple[int, ...]:
        """What of a layout a collective's time depends on besides its own group and carrier."""
        return (layout.threads, layout.mesh.num_workers) if self.on_processors or not layout.order else ()

    def time(
        self, layout: Layout, name: CollectiveName, degree: int, stride: int, size: float, *, calls: float = 1.0,
        along: Literal["data", "model"] = "data",
    ) -> Seconds:  # fmt: skip
        """Time of a collective of `size` bytes in `calls` pieces over an axis (s).

        Args:
            stride: how many devices apart neighbours stand; 0: as is best.
            along: an axis of the data, or one that splits the model, whose collectives have a carrier of their own.
        """
        if degree == 1:
            return 0.0
        if stride == 0:
            each = self._strides(layout, degree)
            return min(self.time(layout, name, degree, one, size, calls=calls, along=along) for one in each)
        if self.fitted is None:
            cost = self.cost(layout, name, degree, stride, along=along)
            return calls * cost.latency + size / cost.bandwidth
        return self._timed(name, degree, stride, size, calls)

    def routed(
        self, layout: Layout, routes: Sequence[tuple[CollectiveName, float]], degree: int, stride: int, size: float,
        *, calls: float = 1.0,
    ) -> Seconds:  # fmt: skip
        """Time of collectives that follow one another over an axis, each in so many pieces (s).

        Args:
            routes: which, with the size of its tensor over `size`.
        """
        return sum(calls * self.time(layout, name, degree, stride, share * size / calls) for name, share in routes)

    def _fitted_time(
        self, name: CollectiveName, degree: int, stride: int, size: float, calls: float
    ) -> Seconds:  # fmt: skip
        assert self.fitted is not None
        if name == "all_reduce":
            return self.fitted.all_reduce(degree, stride, size, calls=calls)
        if name == "all_to_all":
            return self.fitted.all_to_all(degree, stride, size)
        if name == "send":  # round a ring all send at once, and wait for those whose message goes farthest
            left = (reach for reach in self.fitted.reaches if degree * stride > reach)
            return calls * self.fitted.send(max(stride, *left, 0), size / calls)
        if name == "broadcast":
            return calls * self.fitted.send(stride, size / calls)
        return self.fitted.gather(degree, stride, size, calls=calls)

    def slowdown(self, degree: int, stride: int) -> Slowdown:
        """How much computing and collectives over an axis slow each other; measured links' figures do not tell."""
        if stride == 0 and self.fitted is not None:
            known = self.fitted.shares.interference
            near = known.link if self.fitted.machine.has_switch else known.pcie
            return Slowdown(
                computing=min(near.computing, known.network.computing),
                exchange=min(near.exchange, known.network.exchange),
            )
        return self.fitted.slowdown(degree, stride) if self.fitted is not None else Slowdown()

    def cost(
        self,
        layout: Layout,
        name: CollectiveName,
        degree: int,
        stride: int,
        *,
        along: Literal["data", "model"] = "data",
    ) -> CollectiveCost:
        """Price of a collective over an axis of this degree whose neighbours stand `stride` workers apart."""
        transport: str = layout.exchange.transport
        near = transport
        if along == "model":
            carrier, transport = carrier_within_host(layout.exchange.transport, layout.sharding), "gloo"
            # a pipeline's messages lie where both see them
            near = carrier if name == "send" or carrier == "gloo" else carrier + STAGED
        return self._known(name, degree, stride, (near, transport), layout.threads, layout.mesh.num_workers)

    def _cost(
        self, name: CollectiveName, degree: int, stride: int, transports: tuple[str, str], threads: int, workers: int
    ) -> CollectiveCost:
        """Args: transports: inside a host, and between hosts."""
        if degree == 1:
            return CollectiveCost(latency=0.0, bandwidth=float("inf"))
        host = min(self._hosts, key=lambda one: one.devices)
        if host.device.kind != "cpu":
            return group_cost(self._cluster, host, Group(degree=degree, stride=stride), name)
        together = workers_on(host, threads=threads, workers=workers)
        num_hosts = 1 if degree * stride <= together else sum(one.count for one in self._hosts)
        return processes_cost(
            self._cluster, collective=name, group=degree, transport=transports[num_hosts > 1], num_hosts=num_hosts
        )

    def of_units(self, layout: Layout, examples: float) -> tuple[UnitExchange, ...]:
        """Collectives of tensor, context and expert axes.

        Args:
            examples: of a micro-batch on one data rank.
        """
        return tuple(one for part in self._parts(layout, examples) for one in self._of_part(layout, *part))

    def waited(self, layout: Layout, examples: float, units: Column) -> Seconds:
        """What computing waits for them at least, over so many units of each kind (s)."""
        listed = self.of_units(layout, examples)
        return sum(float(units @ (item.waited_forward + item.waited_backward)) for item in listed if not item.hideable)

    def _parts(self, layout: Layout, examples: float) -> Iterator[tuple[Axis, str, float]]:
        """What is exchanged along which axis, and of how many examples."""
        mesh, local = layout.mesh, examples / layout.mesh.cp
        if mesh.tp > 1:
            yield "tp", layout.sequence, local
        if mesh.cp > 1:
            # round the ring come everybody's keys and values; what is handed out is a worker's own part
            yield "cp", f"{layout.attention} round", examples / mesh.tp
            yield "cp", f"{layout.attention} own", local / mesh.tp
        if mesh.ep > 1:
            yield "ep", "tokens", local / (mesh.tp if layout.sequence == "split" else 1)

    def _of_part(self, layout: Layout, axis: Axis, part: str, examples: float) -> tuple[UnitExchange, ...]:
        """One entry per collective's name; other axes matter by where they leave this one only."""
        degree, stride, reaches = getattr(layout.mesh, axis), layout.stride(axis), self.reaches(layout)
        where = _lies(degree, stride, reaches) if stride else layout.mesh.num_workers
        key = axis, part, degree, where, reaches, examples, layout.exchange.transport, layout.sharding
        if key not in self._known_parts:
            listed = self._listed(part)
            hideable = part.endswith(" round")
            self._known_parts[key] = tuple(self._priced(layout, listed, axis, examples, hideable=hideable))
        return self._known_parts[key]

    def _listed(self, part: str) -> tuple[SplitExchange, ...]:
        splits = self._graph.splits or Splits()
        if part in ("whole", "split"):
            return getattr(splits.tensor, part) if splits.tensor is not None else ()
        if part == "tokens":
            return splits.expert.exchanges if splits.expert is not None else ()
        attention, which = part.split()
        listed = getattr(splits.context, attention) if splits.context is not None else ()
        return tuple(item for item in listed if (item.name == "send") is (which == "round"))

    def _priced(
        self, layout: Layout, listed: tuple[SplitExchange, ...], axis: Axis, examples: float, *, hideable: bool
    ) -> Iterator[UnitExchange]:
        """What every one of them takes, by kind of unit."""
        kinds = len(self._graph.blocks) + 2
        degree, stride = getattr(layout.mesh, axis), layout.stride(axis)
        strides = (stride,) if stride else self._strides(layout, degree)
        for name in dict.fromkeys(item.name for item in listed):
            latencies = [self.time(layout, name, degree, one, 0.0, along="model") for one in strides]
            columns = {
                part: np.zeros(kinds)
                for part in ("count", "size", "forward", "backward", "waited_forward", "waited_backward")
            }
            for item in listed:
                if item.name != name:
                    continue
                kind = self._kinds.get(item.module, kinds - 1)
                instances = len(self._graph.blocks[kind - 1].paths) if 0 < kind < kinds - 1 else 1
                calls = item.count * item.repeats / instances
                size = item.size.at(examples)
                columns["count"][kind] += calls
                columns["size"][kind] += calls * size
                times = [self.time(layout, name, degree, one, size, along="model") for one in strides]
                waited = min(map(partial(self._waited, axis, name), times, latencies))
                columns[item.phase][kind] += calls * min(times)
                columns[f"waited_{item.phase}"][kind] += calls * waited
            # through memory that processes share, workers copy what comes round the ring themselves
            beside = hideable and self.habits is None and not self.on_processors
            yield UnitExchange(name=name, axis=axis, hideable=beside, **columns)

    def _waited(self, axis: Axis, name: CollectiveName, time: Seconds, latency: Seconds) -> Seconds:
        """What of a collective inside a unit computing waits for (s)."""
        if self.habits is None or self.fitted is None:
            return time
        if axis == "tp":
            return tensor_exposed(time, latency, self.habits)
        return time * self.fitted.shares.context if axis == "cp" and name == "send" else time

    def _strides(self, layout: Layout, degree: int) -> tuple[int, ...]:
        """Of how far apart an axis' neighbours may stand in any order, one for each way to lie on hosts and racks."""
        return _distances(layout.mesh.num_workers // degree, degree, self.reaches(layout))

    def transfer(self, layout: Layout, size: float, *, apart: int) -> Seconds:
        """Time to hand a micro-batch's activations to the next stage (s).

        Args:
            size: what crosses the cut, on one worker (B).
            apart: one of `ways`.
        """
        return self.time(layout, "send", 2, apart, size, along="model")

    def ways(self, layout: Layout, num_stages: int) -> tuple[int, ...]:
        """How far a message goes to each stage but the first: a whole host or rack, in devices, where it leaves one."""
        stride = layout.stride("pp")
        return _ways(stride, layout.mesh.pp, num_stages, self.reaches(layout)) if stride else (0,) * (num_stages - 1)

    def counted_ways(self, layout: Layout, num_stages: int) -> tuple[tuple[int, int], ...]:
        """How far messages go to stages (`ways`), and how many go so far."""
        stride = layout.stride("pp")
        if not stride:
            return ((0, num_stages - 1),) if num_stages > 1 else ()
        return _counted(stride, layout.mesh.pp, num_stages, self.reaches(layout))


@lru_cache(maxsize=2**12)
def _counted(stride: int, workers: int, num_stages: int, reaches: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(Counter(_ways(stride, workers, num_stages, reaches)).items())


@lru_cache(maxsize=2**12)
def _ways(stride: int, workers: int, num_stages: int, reaches: tuple[int, ...]) -> tuple[int, ...]:
    places = [stage % workers * stride for stage in range(num_stages)]
    return tuple(_left(one, other, reaches) for one, other in pairwise(places))


def _left(one: int, other: int, reaches: tuple[int, ...]) -> int:
    """The largest host or rack in which two places do not lie both; 1 where there is none."""
    return max((reach for reach in reaches if one // reach != other // reach), default=1)


@lru_cache(maxsize=4096)
def _distances(most: int, degree: int, reaches: tuple[int, ...]) -> tuple[int, ...]:
    found: dict[tuple, int] = {}
    for stride in range(1, most + 1):
        if most % stride == 0:
            found.setdefault(_lies(degree, stride, reaches), stride)
    return tuple(found.values())


@lru_cache(maxsize=2**14)
def _lies(degree: int, stride: int, reaches: tuple[int, ...]) -> tuple[tuple[int, bool], ...]:
    """How many members of a group share a host, and a rack, and whether neighbours do: all that prices know of it."""
    return tuple((min(degree, reach // stride), stride >= reach) for reach in reaches)


def _kinds(graph: Graph) -> dict[str, int]:
    """Which kind of unit each module with operations belongs to: before the blocks, a kind of block, or after them."""
    firsts = [(block.paths[0],) for block in graph.blocks]
    inside = {
        module: next((number for number, first in enumerate(firsts, start=1) if within(module, first)), 0)
        for module in dict.fromkeys(item.module for item in graph.operations)
    }
    found: dict[str, int] = {}
    before = any(inside.values())
    for module, kind in inside.items():
        before = before and not kind
        found[module] = kind or (0 if before and module else len(firsts) + 1)
    return found
