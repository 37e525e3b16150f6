"""What the workers of a hybrid strategy exchange, axis by axis: priced by kind of unit, or by stage."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from meshwright.cost._communication import CollectiveCost, processes_cost
from meshwright.cost._mesh import Axis
from meshwright.cost._workload import Column, within
from meshwright.cost.hybrid._layout import Layout
from meshwright.cost.hybrid._topology import Group, group_cost, workers_on
from meshwright.graph import Graph, SplitExchange
from meshwright.hardware import Cluster, CollectiveName, Host
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
        hideable: whether attention's computing hides it.
    """

    name: CollectiveName
    axis: str
    count: Column
    size: Column
    forward: Column
    backward: Column
    hideable: bool = False


class Exchanges:
    """Prices of collectives over the axes of meshes on one cluster.

    Args:
        graph: the whole one.
        cluster: hosts and links.
        hosts: those that train.
    """

    def __init__(self, graph: Graph, cluster: Cluster, hosts: tuple[Host, ...]) -> None:
        self._graph = graph
        self._cluster = cluster
        self._hosts = hosts
        self._kinds = {item.module: _kind(graph, item.module) for item in graph.operations}
        self._known = lru_cache(maxsize=None)(self._cost)

    def cost(self, layout: Layout, name: CollectiveName, degree: int, stride: int) -> CollectiveCost:
        """Price of a collective over an axis of this degree whose neighbours stand `stride` workers apart."""
        return self._known(name, degree, stride, layout.exchange.transport, layout.threads, layout.mesh.num_workers)

    def _cost(
        self, name: CollectiveName, degree: int, stride: int, transport: str, threads: int, workers: int
    ) -> CollectiveCost:
        if degree == 1:
            return CollectiveCost(latency=0.0, bandwidth=float("inf"))
        host = min(self._hosts, key=lambda one: one.devices)
        if host.device.kind != "cpu":
            return group_cost(self._cluster, host, Group(degree=degree, stride=stride), name)
        together = workers_on(host, threads=threads, workers=workers)
        num_hosts = 1 if degree * stride <= together else sum(one.count for one in self._hosts)
        carrier = "gloo" if transport == "shared_memory" and name == "send" else transport
        return processes_cost(self._cluster, collective=name, group=degree, transport=carrier, num_hosts=num_hosts)

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
            found += self._priced(layout, listed, "cp", examples / mesh.tp, hideable=layout.attention == "ring")
        if mesh.ep > 1 and splits.expert is not None:
            sequence = mesh.tp if layout.sequence == "split" else 1
            found += self._priced(layout, splits.expert.exchanges, "ep", local * mesh.ep / sequence)
        return tuple(found)

    def _priced(
        self, layout: Layout, listed: tuple[SplitExchange, ...], axis: Axis, examples: float, *, hideable: bool = False
    ) -> list[UnitExchange]:
        """One entry per collective's name, by kind of unit."""
        kinds = len(self._graph.blocks) + 2
        degree = getattr(layout.mesh, axis)
        found = []
        for name in dict.fromkeys(item.name for item in listed):
            cost = self.cost(layout, name, degree, layout.stride(axis))
            columns = {part: np.zeros(kinds) for part in ("count", "size", "forward", "backward")}
            for item in listed:
                if item.name != name:
                    continue
                kind = self._kinds.get(item.module, kinds - 1)
                instances = len(self._graph.blocks[kind - 1].paths) if 0 < kind < kinds - 1 else 1
                calls = item.count * item.repeats / instances
                size = item.size.at(examples)
                columns["count"][kind] += calls
                columns["size"][kind] += calls * size
                columns[item.phase][kind] += calls * cost.time(size)
            found.append(UnitExchange(name=name, axis=axis, hideable=hideable, **columns))
        return found

    def transfer(self, layout: Layout, size: float) -> Seconds:
        """Time to hand a micro-batch's activations to the next stage (s).

        Args:
            size: what crosses the cut, on one worker (B).
        """
        return self.cost(layout, "send", 2, layout.stride("pp")).time(size)


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
