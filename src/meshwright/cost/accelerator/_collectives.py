r"""How long collectives take, by algorithm and by the links that a group lies on.

A group of $n$ devices that stand `stride` devices apart has $i$ of them in a host and spans $h$ hosts. Its bandwidth
is that of the inner link, or of the $i$ network cards that its ring crosses between hosts with, whichever is less;
with $r$ of them in a rack, no more than $r$ devices' part of what leads out of it.

    all-gather, reduce-scatter   ring: $n - 1$ hops, $(n-1)/n$ of the tensor
    all-reduce                   the fastest of a ring (twice that), a double tree between the hosts, and two levels:
                                 scattered inside a host, a ring of one device in each, gathered inside; in a host
                                 alone, a switch that adds makes it faster
    all-to-all                   $(n-1)/n$ of the tensor, one device's card each; inside a host at the full rate of a
                                 switch or mesh. A message goes $n / 4$ links around a ring and $k / 2$ over a torus of
                                 side $k$, whose devices have 2 and 4: $4 / n$ and $2 / k$ of the rate are left
    message                      one neighbour's link: of a mesh of $d$ devices $1 / (d - 1)$ of what a device has, of a
                                 ring or torus one of 2 or 4 links

Between hosts the same holds of what joins them: to a ring or torus of hosts a tree is nothing better.
"""

from dataclasses import dataclass
from math import ceil, log2

from meshwright.cost.accelerator._calibration import NetworkShares
from meshwright.cost.accelerator._interference import Slowdown
from meshwright.cost.accelerator._machine import LINK_LATENCY, Machine, Rack
from meshwright.hardware import Topology
from meshwright.units import BytesPerSecond, Seconds


@dataclass(frozen=True, slots=True)
class Collectives:
    """Times of collectives on a machine."""

    machine: Machine
    shares: NetworkShares

    @property
    def link(self) -> BytesPerSecond:
        """What collectives reach inside a host; where nothing joins its devices, what their network card reaches."""
        if not self.machine.link:
            return self.network
        return (
            self.machine.link * self.shares.link
            if self.machine.has_switch
            else min(self.machine.link, self.shares.pcie)
        )

    @property
    def network(self) -> BytesPerSecond:
        """What a device's network card reaches."""
        return self.machine.network * self.shares.network

    @property
    def reaches(self) -> tuple[int, ...]:
        """Devices of what the inner link joins, and of a rack where there are any."""
        rack = self.machine.rack
        return (self.machine.domain,) if rack is None else (self.machine.domain, rack.devices)

    def span(self, size: int, stride: int) -> tuple[int, int]:
        """Members of a group in one host, and its hosts."""
        inside = max(1, min(size, self.machine.domain // stride))
        return inside, ceil(size / inside)

    def slowdown(self, size: int, stride: int) -> Slowdown:
        """How much a collective of such a group and computing slow each other."""
        known = self.shares.interference
        if self.span(size, stride)[1] > 1:
            return known.network
        return known.link if self.machine.has_switch else known.pcie

    def gather(self, size: int, stride: int, bytes_: float, *, calls: float = 1.0) -> Seconds:
        """All-gather to `bytes_`, or reduce-scatter of them, in `calls` pieces."""
        if size <= 1:
            return 0.0
        _, hosts = self.span(size, stride)
        moved = bytes_ * (size - 1) / size
        if hosts == 1:
            return calls * ((size - 1) * self._link_hop + self.shares.link_start) + moved / self.link
        return calls * self._ring_latency(size, size * stride) + moved / self._crossing(size, stride)

    def all_reduce(self, size: int, stride: int, bytes_: float, *, calls: float = 1.0) -> Seconds:
        """All-reduce of `bytes_` in `calls` pieces."""
        if size <= 1:
            return 0.0
        inside, hosts = self.span(size, stride)
        moved = 2 * bytes_ * (size - 1) / size
        if hosts == 1:
            adding = self.shares.switch_reduction if self.machine.adds_in_switch else 1.0
            latency = 2 * log2(size) * self._link_hop + self.shares.link_start
            return calls * latency + moved / (self.link * adding)
        crossing, extent = self._crossing(size, stride), size * stride
        ring = 2 * calls * self._ring_latency(size, extent) + moved / crossing
        deep = log2(hosts)
        start = 2 * deep * self._hop(extent) + self.shares.network_start
        tree = 2 * calls * start + 2 * bytes_ / crossing * (1 + self.shares.tree_slope * deep)
        if self._topology(extent) in ("ring", "torus"):
            tree = ring
        return min(ring, tree, self._two_levels(inside, hosts, stride, bytes_, calls=calls))

    def _two_levels(self, inside: int, hosts: int, stride: int, bytes_: float, *, calls: float) -> Seconds:
        """Scattered among the members in a host, summed over the hosts by one of each, gathered again."""
        if inside == 1:
            return float("inf")
        apart = stride * inside
        part = 2 * bytes_ / inside * (hosts - 1) / hosts / self._crossing(hosts, apart)
        between = 2 * calls * self._ring_latency(hosts, hosts * apart) + part
        return 2 * self.gather(inside, stride, bytes_, calls=calls) + between

    def all_to_all(self, size: int, stride: int, bytes_: float) -> Seconds:
        """All-to-all of a device's `bytes_`."""
        if size <= 1:
            return 0.0
        _, hosts = self.span(size, stride)
        extent = size * stride
        near, far = _passing(self.machine.topology, size), _passing(self._topology(extent), hosts)
        bandwidth = self.link * near if hosts == 1 else self._card(extent) * far
        return bytes_ * (size - 1) / size / bandwidth + size * self._hop(extent if hosts > 1 else 1)

    def send(self, distance: int, bytes_: float) -> Seconds:
        """A message to the device `distance` further on."""
        crosses = self.machine.num_devices > self.machine.domain and distance >= self.machine.domain
        if not crosses:
            return self._hop(1) + bytes_ / (self.link * _one_link(self.machine.topology, self.machine.domain))
        joined = (self.machine.rack.devices if self._in_rack(distance + 1) and self.machine.rack else
                  self.machine.num_devices) // self.machine.domain  # fmt: skip
        share = _one_link(self._topology(distance + 1), joined)
        return self._hop(distance + 1) + bytes_ / (self._card(distance + 1) * share)

    @property
    def _link_hop(self) -> Seconds:
        """A hop's time inside a host, as fitted at the catalogue's latency."""
        return self.shares.link_hop * (self.machine.link_latency / LINK_LATENCY)

    def _topology(self, extent: int) -> Topology:
        """How the hosts are joined that so many devices in a row are on."""
        rack = self._in_rack(extent)
        return rack.topology if rack is not None else self.machine.network_topology

    def _in_rack(self, extent: int) -> Rack | None:
        """The rack that holds so many devices in a row; None where they leave it, or where there are none."""
        rack = self.machine.rack
        return rack if rack is not None and extent <= rack.devices else None

    def _card(self, extent: int) -> BytesPerSecond:
        """What one device reaches among so many in a row."""
        rack = self._in_rack(extent)
        return rack.network * self.shares.network if rack is not None else self.network

    def _hop(self, extent: int) -> Seconds:
        """A hop's time in a group that reaches over so many devices; between racks, one hop in each rack leads out."""
        if extent <= self.machine.domain:
            return self._link_hop
        rack = self.machine.rack
        latency = self.machine.latency
        if rack is not None:
            out = 0.0 if self._in_rack(extent) else self.machine.domain / rack.devices
            latency = rack.latency + out * (latency - rack.latency)
        return self.shares.network_hop * latency

    def _ring_latency(self, size: int, extent: int) -> Seconds:
        return (size - 1) ** self.shares.ring_growth * self._hop(extent) + self.shares.network_start

    def _crossing(self, size: int, stride: int) -> BytesPerSecond:
        """What a ring over several hosts reaches; others of its kind share the cards and what leads out of racks."""
        inside, _ = self.span(size, stride)
        rack = self.machine.rack
        if rack is None:
            return min(self.link, self.network * inside)
        near = min(self.link, rack.network * self.shares.network * inside)
        together = max(inside, min(size, rack.devices // stride))
        return near if self._in_rack(size * stride) else min(near, self.network * together)


def _passing(topology: Topology, size: int) -> float:
    """Share of a member's bandwidth that is left where messages of all to all go through the others."""
    return min(1.0, {"ring": 4 / size, "torus": 2 / size**0.5}.get(topology, 1.0))


def _one_link(topology: Topology, size: int) -> float:
    """Share of a member's bandwidth that one neighbour is reached with."""
    return {"ring": 1 / 2, "torus": 1 / 4, "mesh": 1 / max(1, size - 1)}.get(topology, 1.0)
