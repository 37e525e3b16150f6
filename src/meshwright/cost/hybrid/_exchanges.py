"""What the workers of a hybrid strategy exchange, axis by axis: priced by kind of unit, or by stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from meshwright.cost._communication import CollectiveCost, carrier_within_host, processes_cost
from meshwright.cost._mesh import Axis
from meshwright.cost._workload import Column, within
from meshwright.cost.accelerator import Collectives, Habits, Slowdown, tensor_exposed
from meshwright.cost.hybrid._layout import Layout
from meshwright.cost.hybrid._topology import Group, group_cost, workers_on
from meshwright.graph import Graph, SplitExchange
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
        self._kinds = {item.module: _kind(graph, item.module) for item in graph.operations}
        self._known = lru_cache(maxsize=None)(self._cost)
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

    def time(
        self, layout: Layout, name: CollectiveName, degree: int, stride: int, size: float, *, calls: float = 1.0,
        along: Literal["data", "model"] = "data",
    ) -> Seconds:  # fmt: skip
        """Time of a collective of `size` bytes in `calls` pieces over an axis (s).

        Args:
            along: an axis of the data, or one that splits the model, whose collectives have a carrier of their own.
        """
        if degree == 1:
            return 0.0
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
        if name in ("send", "broadcast"):
            return calls * self.fitted.send(stride, size / calls)
        return self.fitted.gather(degree, stride, size, calls=calls)

    def slowdown(self, degree: int, stride: int) -> Slowdown:
        """How much computing and collectives over an axis slow each other; measured links' figures do not tell."""
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
        splits, mesh = self._graph.splits, layout.mesh
        if splits is None:
            return ()
        found: list[UnitExchange] = []
        local = examples / mesh.cp
        if mesh.tp > 1 and splits.tensor is not None:
            listed = splits.tensor.whole if layout.sequence == "whole" else splits.tensor.split
            found += self._priced(layout, listed, "tp", local)
        if mesh.cp > 1 and splits.context is not None:
            listed = splits.context.ring if layout.attention == "ring" else splits.context.all_to_all
            # round the ring come everybody's keys and values; what is handed out is a worker's own part
            round_, own = (tuple(item for item in listed if (item.name == "send") is going) for going in (True, False))
            found += self._priced(layout, round_, "cp", examples / mesh.tp, hideable=True)
            found += self._priced(layout, own, "cp", local / mesh.tp)
        if mesh.ep > 1 and splits.expert is not None:
            sequence = mesh.tp if layout.sequence == "split" else 1
            found += self._priced(layout, splits.expert.exchanges, "ep", local / sequence)
        return tuple(found)

    def _priced(
        self, layout: Layout, listed: tuple[SplitExchange, ...], axis: Axis, examples: float, *, hideable: bool = False
    ) -> list[UnitExchange]:
        """One entry per collective's name, by kind of unit."""
        kinds = len(self._graph.blocks) + 2
        degree = getattr(layout.mesh, axis)
        found = []
        for name in dict.fromkeys(item.name for item in listed):
            stride = layout.stride(axis)
            latency = self.time(layout, name, degree, stride, 0.0, along="model")
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
                time = self.time(layout, name, degree, stride, size, along="model")
                columns[item.phase][kind] += calls * time
                columns[f"waited_{item.phase}"][kind] += calls * self._waited(axis, name, time, latency)
            # through memory that processes share, workers copy what comes round the ring themselves
            beside = hideable and self.habits is None and not self.on_processors
            found.append(UnitExchange(name=name, axis=axis, hideable=beside, **columns))
        return found

    def _waited(self, axis: Axis, name: CollectiveName, time: Seconds, latency: Seconds) -> Seconds:
        """What of a collective inside a unit computing waits for (s)."""
        if self.habits is None or self.fitted is None:
            return time
        if axis == "tp":
            return tensor_exposed(time, latency, self.habits)
        return time * self.fitted.shares.context if axis == "cp" and name == "send" else time

    def transfer(self, layout: Layout, size: float) -> Seconds:
        """Time to hand a micro-batch's activations to the next stage (s).

        Args:
            size: what crosses the cut, on one worker (B).
        """
        return self.time(layout, "send", 2, layout.stride("pp"), size, along="model")


def _kind(graph: Graph, module: str) -> int:
    for number, block in enumerate(graph.blocks, start=1):
        if within(module, (block.paths[0],)):
            return number
    first = min(
        (index for index, item in enumerate(graph.operations)
         if any(within(item.module, (block.paths[0],)) for block in graph.blocks)), default=0,
    )  # fmt: skip
    before = {item.module for item in graph.operations[:first]} - {""}
    return 0 if module in before else len(graph.blocks) + 1
