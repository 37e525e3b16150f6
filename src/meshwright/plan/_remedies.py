"""What would make a plan possible where there is none: each change found by searching with it."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from math import ceil

from meshwright.cost.hybrid import HybridPricer
from meshwright.errors import HardwareError, UsageError
from meshwright.hardware import Cluster, hosts_like
from meshwright.plan._goal import Goal, Pins
from meshwright.plan._space import settled
from meshwright.plan._target import aim_of, steps_to
from meshwright.plan.explanation import device_names, summary
from meshwright.plan.search import Effort, Found, Search
from meshwright.units import format_bytes, format_days, format_seconds

_EFFORT = Effort(priced=4, visited=60, total=240)
_MOST_TIMES = 64  # as many hosts are looked at
_MOST_DEVICES = 8  # in a host


@dataclass(frozen=True, kw_only=True, slots=True)
class Remedies:
    """Changes of what was asked, or of what there is.

    Args:
        pricer: of the graph on the cluster.
        goal: as it was asked, which nothing keeps.
    """

    pricer: HybridPricer
    goal: Goal

    def listed(self) -> Iterator[str]:
        """Where there is a plan: without a pin or a limit on memory, with more devices or hosts, or a smaller batch."""
        yield from self._without_pins()
        if self.goal.memory_limit:
            found = self._found(self.pricer, replace(self.goal, memory_limit=0))
            if found is not None:
                yield f"leave out --memory {format_bytes(self.goal.memory_limit)}: {self._told(found)}"
                return
        yield from self._more_devices()
        yield from self._more_hosts()
        yield from self._smaller_batch()

    def _without_pins(self) -> Iterator[str]:
        for item in fields(Pins):
            value = getattr(self.goal.pins, item.name)
            if value is None:
                continue
            found = self._found(self.pricer, replace(self.goal, pins=replace(self.goal.pins, **{item.name: None})))
            if found is not None:
                yield f"leave out {item.name} = {value}: {self._told(found)}"

    def _more_devices(self) -> Iterator[str]:
        """The smallest doubling of accelerators in a small host with which there is a plan."""
        cluster, host = self.pricer.cluster, self.pricer.cluster.hosts[0]
        if self.goal.pins.workers is not None or host.device.kind == "cpu" or cluster.num_devices != host.devices:
            return
        devices = 2 * host.devices
        while devices <= _MOST_DEVICES:
            found = self._on(replace(cluster, hosts=(replace(host, devices=devices),)))
            if found is not None:
                yield f"{devices} devices instead of {host.devices} in the host: {self._told(found)}"
                return
            devices *= 2

    def _more_hosts(self) -> Iterator[str]:
        """The smallest doubling of all hosts with which there is a plan; pinned workers stay as they are.

        Where nothing is said of a network between them, it is the one that such hosts come with.
        """
        cluster, times = self.pricer.cluster, 2
        if self.goal.pins.workers is not None:
            return
        if not any(link.tier == "network" for link in cluster.links):
            try:
                cluster = replace(hosts_like(cluster, 2), hosts=cluster.hosts)
            except UsageError:
                return
        while times <= _MOST_TIMES:
            found = self._on(_times(cluster, times))
            if found is not None:
                number = sum(host.count for host in cluster.hosts)
                yield f"{times * number} hosts instead of {number}: {self._told(found)}"
                return
            times *= 2

    def _smaller_batch(self) -> Iterator[str]:
        """The largest halving of the batch with which there is a plan; a length in tokens stays, and has more steps."""
        graph, size = self.pricer.graph, self.pricer.graph.batch_size // 2
        if self.goal.deadline or self.goal.budget:
            return
        while size:
            smaller = HybridPricer(
                replace(graph, batch_size=size), self.pricer.cluster, correction=self.pricer.correction
            )
            found = self._found(smaller, self.goal)
            if found is not None:
                yield f"a batch of {size} instead of {graph.batch_size}: {self._told(found, batch=size)}"
                return
            size //= 2

    def _on(self, cluster: Cluster) -> Found | None:
        """The best plan on another cluster, if there is one."""
        try:
            pricer = HybridPricer(self.pricer.graph, cluster, correction=self.pricer.correction)
        except HardwareError:
            return None
        return self._found(pricer, self.goal)

    def _found(self, pricer: HybridPricer, goal: Goal) -> Found | None:
        graph = pricer.graph
        try:
            return Search(pricer, settled(goal, graph), aim_of(goal, graph), effort=_EFFORT).run().best
        except HardwareError:
            return None

    def _told(self, found: Found, *, batch: int = 0) -> str:
        graph = replace(self.pricer.graph, batch_size=batch) if batch else self.pricer.graph
        price, steps = found.price, steps_to(self.goal, graph)
        money = f", ${ceil(steps * price.money):,}" if price.money else ""
        run = f", {format_days(steps * price.step)}{money}" if steps else ""
        plan = summary(found.layout, device_names(self.pricer, found.layout))
        return f"{plan} takes {format_bytes(price.peak)} and {format_seconds(price.step)}{run}"


def _times(cluster: Cluster, times: int) -> Cluster:
    return replace(cluster, hosts=tuple(replace(host, count=times * host.count) for host in cluster.hosts))
