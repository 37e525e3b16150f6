"""What operations, updates and steps take on each kind of device: by measured rates, or as fitted to published runs.

Accelerators of the catalogue were not measured here. Their figures are peaks; kernels, collectives and what hides what
come from `cost.accelerator`, as for the published runs that it was fitted to.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meshwright.cost._compute import operation_times, optimizer_time
from meshwright.cost._rates import Rates
from meshwright.cost._strategy import Kernels, Precision
from meshwright.cost._workload import Column, Workload
from meshwright.cost.accelerator import (
    Calibration,
    Collectives,
    Habits,
    Machine,
    Messages,
    accelerated_times,
    host_time,
    machine,
    machine_of,
    stall_time,
    stalls,
    update_size,
)
from meshwright.cost.hybrid._layout import Layout
from meshwright.hardware import Cluster, Host
from meshwright.units import BytesPerSecond, Seconds

# The step engine's own Python for one micro-batch (as in `_pricing`).
ENGINE: Seconds = 9e-6
_CATALOGUE = "catalogue:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Devices:
    """The kinds of devices that train.

    Args:
        hosts: with them.
        machines: each as the fit sees it; None where its rates were measured.
        collectives: between them; None where the links' own figures count.
        fitted: to published runs.
        habits: of what runs on them.
        host_links: how fast each and its host's memory exchange data, the slower way of both; 0 where not known (B/s).
    """

    hosts: tuple[Host, ...]
    machines: tuple[Machine | None, ...]
    collectives: Collectives | None
    fitted: Calibration
    habits: Habits
    host_links: tuple[BytesPerSecond, ...]

    @property
    def own_habits(self) -> Habits | None:
        """The habits where they are known for all kinds; None where rates were measured."""
        return self.habits if all(self.machines) else None

    def times(
        self, kind: int, workload: Workload, rates: Rates, *, kernels: Kernels, precision: Precision, examples: float
    ) -> tuple[Column, Column]:
        """Time of every operation (s), and kernels that a host launches for it."""
        where = self.machines[kind]
        if where is None:
            times = operation_times(workload, rates, kernels=kernels, precision=precision, examples=examples)
            return times, np.zeros_like(times)
        times = accelerated_times(
            workload, where, self.fitted, self.habits, kernels=kernels, precision=precision, examples=examples
        )
        return times, workload.launches

    def host(self, kind: int, layout: Layout) -> Seconds:
        """The host's time to launch a layer (s); 0 where it is in the operations' own."""
        if self.machines[kind] is None:
            return 0.0
        mesh = layout.mesh
        return host_time(self.habits, tp=mesh.tp, pp=mesh.pp, num_hosts=-(-mesh.num_workers // self._domain))

    def update(
        self, kind: int, workload: Workload, rates: Rates, layout: Layout, *, elements: float, shards: float
    ) -> Seconds:
        """The optimizer's step on some of the parameters (s).

        Args:
            elements: of them, before they are shared out among the data ranks.
            shards: in how many parts as large as the worker's.
        """
        where = self.machines[kind]
        if where is None:
            whole = optimizer_time(workload, rates, kernels=layout.kernels, shards=1)
            return whole * elements / max(1, workload.trainable_elements) / shards
        moved = 12 + 2 * workload.graph.optimizer.bytes_per_element
        size = update_size(
            elements, shards, layout.micro_batches, self.fitted.traffic, self.habits, moved=moved
        )  # fmt: skip
        return size / (where.bandwidth * self.fitted.kernels.memory)

    def copying(self, kind: int, rates: Rates, size: float) -> BytesPerSecond:
        """How fast a device reads and writes what it copies.

        Args:
            size: of a copy (B).
        """
        where = self.machines[kind]
        if where is None:
            return float(rates.bandwidth("copy", np.array([max(1.0, size)]))[0])
        return where.bandwidth * self.fitted.kernels.memory

    def host_link(self, kind: int) -> BytesPerSecond:
        """How fast a device and its host's memory exchange data, the slower way of both; 0 where that is not known."""
        return self.host_links[kind]

    def least_step(self, micro_batches: int) -> Seconds:
        """What a step takes at least besides computing and exchanging (s)."""
        own = self.own_habits
        return own.step if own is not None else ENGINE * micro_batches

    def step(self, layout: Layout, parameters: float) -> Seconds:
        """What a step takes besides computing and exchanging (s).

        Args:
            parameters: of the whole model.
        """
        own, mesh = self.own_habits, layout.mesh
        if own is None:
            return ENGINE * layout.micro_batches
        messages = Messages(
            tp=mesh.tp, pp=mesh.pp, ranks=mesh.num_shares, sharded=layout.sharding != "none",
            examples=max(replica.examples for replica in layout.replicas), micro_batches=layout.micro_batches,
            parameters=parameters, domain=self._domain, num_hosts=-(-mesh.num_workers // self._domain),
        )  # fmt: skip
        return own.step + (stall_time(own, messages) if stalls(own.stalls, messages) else 0.0)

    def interval(self) -> tuple[float, float]:
        """Ends of the 90 % interval, relative to a prediction; 1 where rates were measured."""
        own = self.own_habits
        if own is None:
            return 1.0, 1.0
        known = all(one is not None and one.device in self.fitted.devices for one in self.machines)
        spread = 1.0 if known else self.fitted.kernels.other_spread
        return own.low / spread, own.high * spread

    @property
    def _domain(self) -> int:
        if self.collectives is not None:
            return self.collectives.machine.domain
        return min(host.devices for host in self.hosts)


def devices_of(cluster: Cluster, hosts: Sequence[Host], fitted: Calibration, habits: Habits) -> Devices:
    """The devices of a cluster's training hosts."""
    machines = tuple(_machine(host) for host in hosts)
    smallest = min(hosts, key=lambda one: one.devices)
    measured = any(link.collectives for link in cluster.links)
    collectives = None
    if all(machines) and not measured:
        where = machine_of(cluster, host=smallest, num_devices=sum(host.count * host.devices for host in hosts))
        collectives = Collectives(where, fitted.network)
    return Devices(
        hosts=tuple(hosts), machines=machines, collectives=collectives, fitted=fitted, habits=habits,
        host_links=tuple(map(_host_link, hosts)),
    )  # fmt: skip


def _host_link(host: Host) -> BytesPerSecond:
    rows = host.device.operation_rates
    ways = ("to_device", "from_device")
    return min(max((row.bandwidth for row in rows if row.kind == "copy" and row.variant == way), default=0.0)
               for way in ways)  # fmt: skip


def _machine(host: Host) -> Machine | None:
    """The device as the fit sees it, alone."""
    if host.device.kind == "cpu" or not host.device.source.startswith(_CATALOGUE):
        return None
    return machine(host.device, link=0.0, network=0.0, latency=0.0, domain=1, num_devices=1)
