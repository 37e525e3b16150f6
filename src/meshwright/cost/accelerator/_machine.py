"""One kind of accelerator in equal hosts, as the step model sees it."""

from dataclasses import dataclass, replace

from meshwright.errors import HardwareError
from meshwright.hardware import Cluster, Device, Host, Topology
from meshwright.units import Bytes, BytesPerSecond, FLOPPerSecond, Seconds

# Links below this come from PCIe, without a switch of their own (B/s).
_FASTEST_PCIE: BytesPerSecond = 70e9
# Of an empty message inside a host: the catalogue's, at which hops of such links were fitted.
LINK_LATENCY: Seconds = 4.6e-6
# NVLink 3 has 300 GB/s one way and NVLink 4 450.
_FASTEST_COPYING_SWITCH: BytesPerSecond = 400e9


@dataclass(frozen=True, kw_only=True, slots=True)
class Rack:
    """Hosts that reach each other faster than hosts elsewhere.

    Args:
        devices: of a rack.
        network: of a device between its hosts, one way.
        latency: of an empty message between them (s).
        topology: how the hosts are joined.
    """

    devices: int
    network: BytesPerSecond
    latency: Seconds
    topology: Topology = "tree"


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Equal accelerators and the links between them.

    Args:
        device: the maker's name.
        half: 16-bit matrix rate.
        float8: 8-bit matrix rate.
        single: 32-bit matrix rate, TF32 where there is one.
        bandwidth: of a device's memory.
        memory: of a device.
        link: of a device inside its host, one way.
        network: of a device between hosts, one way; with racks, between those.
        latency: of an empty message between hosts, or racks (s).
        domain: devices that the inner link joins.
        num_devices: all of them.
        topology: how the inner link joins them.
        link_latency: of an empty message inside a host (s).
        network_topology: how hosts are joined, or racks.
        rack: hosts that a faster network joins; None: there are no such.
        plain: 32-bit rate without matrix units; 0: not known.
    """

    device: str
    half: FLOPPerSecond
    float8: FLOPPerSecond
    single: FLOPPerSecond
    bandwidth: BytesPerSecond
    memory: Bytes
    link: BytesPerSecond
    network: BytesPerSecond
    latency: Seconds
    domain: int
    num_devices: int
    topology: Topology = "switch"
    link_latency: Seconds = LINK_LATENCY
    network_topology: Topology = "tree"
    rack: Rack | None = None
    plain: FLOPPerSecond = 0.0

    @property
    def num_hosts(self) -> int:
        """Hosts, or domains of one inner link."""
        return -(-self.num_devices // self.domain)

    @property
    def has_switch(self) -> bool:
        """Whether the link inside a host is more than PCIe."""
        return self.link > _FASTEST_PCIE

    @property
    def holds_clock(self) -> bool:
        """Whether products run at one clock, as TPUs do; that of GPUs falls to stay within their power."""
        return self.device.startswith("Google TPU")

    @property
    def adds_in_switch(self) -> bool:
        """Whether the switch between the devices adds what they reduce, as NVIDIA's have done since NVLink 4."""
        return self.topology == "switch" and self.device.startswith("NVIDIA") and self.link > _FASTEST_COPYING_SWITCH


def machine_of(cluster: Cluster, *, host: Host | None = None, num_devices: int = 0) -> Machine:
    """The machine that a cluster of equal accelerators is.

    A rack's link that is as fast as a host's makes one domain of the rack, as NVLink switches outside of hosts do; a
    slower one is a network of its own.

    Args:
        host: the one that counts, where there are several; None: the first.
        num_devices: in use; 0: all.

    Raises:
        HardwareError: the device's matrix rates are not known, or hosts have no link between them.
    """
    host = host or cluster.hosts[0]
    num_devices = num_devices or cluster.num_devices
    links = {link.tier: link for link in cluster.links}
    inner, near = links.get("host"), links.get("rack")
    if near is not None and (inner is None or near.bandwidth >= inner.bandwidth):
        inner, near = near, None
    domain = max(host.devices, inner.reach if inner else 0)
    network = links.get("network")
    if network is None and num_devices > max(domain, near.reach if near else 0):
        raise HardwareError(
            f"cluster {cluster.name!r} has no link between its {sum(each.count for each in cluster.hosts)} hosts",
            cause=f"its links are: {', '.join(links) or 'none'}",
            alternatives=["a cluster file with a link of tier 'network'"],
            command="meshwright hardware --save cluster.toml",
        )
    if inner is None and network is None and min(num_devices, host.devices) > 1:
        raise HardwareError(
            f"cluster {cluster.name!r} has no link between the {host.devices} devices of a host",
            cause=f"its links are: {', '.join(links) or 'none'}",
            alternatives=["a cluster file with a link of tier 'host'"],
            command="meshwright hardware --save cluster.toml",
        )
    found = machine(
        host.device,
        link=inner.bandwidth if inner else 0.0,
        network=network.bandwidth / host.devices if network else 0.0,
        latency=network.latency if network else 0.0,
        domain=min(domain, num_devices),
        num_devices=num_devices,
        topology=inner.topology if inner else "switch",
        rack=Rack(devices=near.reach, network=near.bandwidth, latency=near.latency, topology=near.topology)
        if near
        else None,
    )
    return replace(
        found,
        link_latency=inner.latency if inner else LINK_LATENCY,
        network_topology=network.topology if network else "tree",
    )


def machine(
    device: Device,
    *,
    link: BytesPerSecond,
    network: BytesPerSecond,
    latency: Seconds,
    domain: int,
    num_devices: int,
    topology: Topology = "switch",
    rack: Rack | None = None,
) -> Machine:
    """A machine of one kind of device.

    Raises:
        HardwareError: the device's matrix rates are not known.
    """
    rates = {rate.dtype: rate.rate for rate in device.matrix_rates}
    half = max(rates.get("bfloat16", 0.0), rates.get("float16", 0.0))
    single = rates.get("tfloat32", rates.get("float32", half / 2))
    if not half:
        half = single
    copies = [rate.bandwidth for rate in device.operation_rates if rate.kind == "copy"]
    if not half or not copies:
        raise HardwareError(
            f"{device.name}: no matrix rate or memory bandwidth is known", alternatives=["a device of the catalogue"]
        )
    return Machine(
        device=device.name,
        half=half,
        float8=rates.get("float8_e4m3fn", rates.get("int8", half)),
        single=single,
        bandwidth=max(copies),
        memory=device.memory,
        link=link,
        network=network,
        latency=latency,
        domain=domain,
        num_devices=num_devices,
        topology=topology,
        rack=rack,
        plain=rates.get("float32", 0.0),
    )
