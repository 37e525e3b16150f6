"""What there is to train on: hosts, their devices, and the links between them."""

from dataclasses import dataclass
from typing import Literal

from meshwright.hardware._device import Device
from meshwright.units import BytesPerSecond, Seconds

CollectiveName = Literal["all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all", "send"]
Tier = Literal["process", "host", "rack", "network"]
Topology = Literal["switch", "mesh", "ring", "torus", "tree"]
# Behind a transport's name: tensors from anywhere, between stretches of computing, as split models exchange them.
STAGED = "_staged"


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectiveRate:
    """How fast a collective runs: time = latency + bytes / bandwidth.

    Args:
        collective: which.
        transport: `gloo`, `nccl`, `shared_memory`, …; with `_staged` behind it, as the parts of a split model use it:
            on tensors from anywhere, between stretches of computing.
        group: number of workers.
        latency: time of an empty message (s).
        bandwidth: bytes of the whole tensor over time (B/s), the algorithm's bandwidth as nccl-tests defines it:
            for `all_gather` the gathered result, for `reduce_scatter` the tensor before it is scattered.
    """

    collective: CollectiveName
    transport: str
    group: int
    latency: Seconds
    bandwidth: BytesPerSecond


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """What workers of one tier exchange data over.

    Args:
        tier: `process`: workers on one host's processor; `host`: accelerators of one host; `rack`: hosts near each
            other; `network`: all hosts, or racks.
        latency: of an empty message between neighbours (s).
        bandwidth: between neighbours, each way (B/s): of a device inside a host or rack, of a whole host in a network.
        topology: how neighbours are joined: through a `switch`, all with all (`mesh`), in a `ring` or `torus`, or by a
            `tree` of switches.
        reach: devices that it joins; 0: those of a host, and for `network` all.
        collectives: measured.
    """

    tier: Tier
    latency: Seconds
    bandwidth: BytesPerSecond
    topology: Topology = "switch"
    reach: int = 0
    collectives: tuple[CollectiveRate, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """A machine, or `count` equal machines.

    Args:
        name: its name in the network; a prefix where `count` is more than 1.
        count: how many equal hosts.
        device: the kind of device in it.
        devices: how many of them; 1 for a CPU host (its cores are shared out among workers).
        loading: of batches as the script gets them, what a machine's disks and decoders deliver while it trains (B/s);
            0: not known.
    """

    name: str
    count: int = 1
    device: Device
    devices: int = 1
    loading: BytesPerSecond = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Hosts and links; measured, or read from a file.

    A machine with accelerators has two entries of the same name: its accelerators first, then its processor.

    Args:
        identity: tells one machine from another (processor, cores, memory, torch version).
        measured_at: ISO 8601 date and time; empty when nothing was measured.
        load: processor load per core by other processes while measuring (0 to 1).
    """

    name: str
    identity: str = ""
    measured_at: str = ""
    load: float = 0.0
    hosts: tuple[Host, ...]
    links: tuple[Link, ...] = ()

    @property
    def num_cores(self) -> int:
        """Processor cores over all hosts."""
        return sum(host.count * host.devices * host.device.cores for host in self.hosts)

    @property
    def num_devices(self) -> int:
        """Devices over all hosts."""
        return sum(host.count * host.devices for host in self.hosts)
