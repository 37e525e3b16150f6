r"""How long collectives take, by transport, group and size.

Measured rows win: $t = \text{latency} + \text{bytes} / \text{bandwidth}$. A group or a collective that was not
measured is derived from the nearest one that was, by what a ring of $n$ workers moves:

    all_reduce                  2 (n-1)/n of the tensor in 2 (n-1) hops
    all_gather, reduce_scatter    (n-1)/n of it           in n-1 hops
    broadcast                   all of it                 in log2 n hops

and where nothing was measured from the link's own latency per hop and bandwidth.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log2

from meshwright.cost._strategy import Sharding, Strategy, TransportName
from meshwright.errors import HardwareError
from meshwright.hardware import STAGED, Cluster, CollectiveName, CollectiveRate, Link, Tier
from meshwright.units import BytesPerSecond, Seconds

# Between processes on the cores of one host; a cluster file may tell sockets (`host`) from cores (`process`).
_PROCESSOR_TIERS: tuple[Tier, ...] = ("process", "host")


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectiveCost:
    """A collective's price: time = latency + bytes / bandwidth, bytes being of the whole tensor."""

    latency: Seconds
    bandwidth: BytesPerSecond

    def time(self, size: float) -> Seconds:
        """Time for a tensor of `size` bytes."""
        return self.latency + size / self.bandwidth


def collective_cost(cluster: Cluster, strategy: Strategy, collective: CollectiveName, group: int) -> CollectiveCost:
    """The price of one collective over `group` of a strategy's workers.

    Raises:
        HardwareError: the cluster has no link that these workers share.
    """
    transport = strategy.exchange.transport
    if transport == "hierarchical":
        return _two_levels(cluster, strategy, collective)
    link = _shared_link(cluster, strategy)
    # packing is not the link's matter
    return _priced(link, "direct" if transport == "direct_packed" else transport, collective, group)


def processes_cost(
    cluster: Cluster, *, collective: CollectiveName, group: int, transport: str, num_hosts: int
) -> CollectiveCost:
    """The price of one collective over `group` workers on the processors of so many hosts.

    Raises:
        HardwareError: the cluster has no link that these workers share.
    """
    wanted: tuple[Tier, ...] = ("network", "rack") if num_hosts > 1 else _PROCESSOR_TIERS
    link = next((link for tier in wanted for link in cluster.links if link.tier == tier), None)
    if link is None:
        raise HardwareError(
            f"cluster {cluster.name!r} has no link between workers on {num_hosts} host{'s' if num_hosts > 1 else ''}",
            alternatives=[f"add a link of tier {wanted[0]!r} to the cluster file"],
            command="meshwright hardware --fresh --save cluster.toml",
        )
    return _priced(link, transport, collective, group)


def carrier_within_host(transport: TransportName, sharding: Sharding) -> TransportName:
    """What carries tensors between processes of one host along the axes that split the model.

    Shared memory, unless gradients were asked to go through gloo; with sharded parameters nobody is asked.
    """
    return "gloo" if transport == "gloo" and sharding != "parameters" else "shared_memory"


def _two_levels(cluster: Cluster, strategy: Strategy, collective: CollectiveName) -> CollectiveCost:
    """Through shared memory among the workers of the fullest host, then directly with one worker of each."""
    on_host = Counter(worker.host for worker in strategy.workers)
    fullest = [worker for worker in strategy.workers if on_host[worker.host] == max(on_host.values())]
    home = replace(strategy, workers=tuple(worker for worker in fullest if worker.host == fullest[0].host))
    levels = [
        _priced(_shared_link(cluster, home), "shared_memory", name, home.num_workers)
        for name in (collective, "broadcast")
        if home.num_workers > 1
    ]
    if len(on_host) > 1:
        levels.append(_priced(_shared_link(cluster, strategy), "direct", collective, len(on_host)))
    return CollectiveCost(
        latency=sum(level.latency for level in levels), bandwidth=1 / sum(1 / level.bandwidth for level in levels)
    )


def _priced(link: Link, transport: str, collective: CollectiveName, group: int) -> CollectiveCost:
    rows = [row for row in link.collectives if row.transport == transport]
    if not rows and transport.endswith(STAGED):  # a file of an earlier probe
        return _priced(link, transport.removesuffix(STAGED), collective, group)
    same = [row for row in rows if row.collective == collective]
    if not rows:
        return link_cost(link, collective, group)
    row = min(same or rows, key=lambda row: (abs(log2(row.group / group)), row.group))
    return _derived(row, collective, group)


def measured_transports(cluster: Cluster) -> tuple[str, ...]:
    """Transports that were measured between processes of one host."""
    return tuple(
        dict.fromkeys(
            row.transport for link in cluster.links if link.tier in _PROCESSOR_TIERS for row in link.collectives
        )
    )


def hops(collective: CollectiveName, group: int) -> float:
    """Messages that follow one another in a ring (a tree for broadcast)."""
    if group == 1:
        return 0.0
    if collective == "all_reduce":
        return 2.0 * (group - 1)
    return log2(group) if collective in ("broadcast", "send") else float(group - 1)


def moved_share(collective: CollectiveName, group: int) -> float:
    """How much of the tensor goes through one worker's link."""
    if collective == "all_reduce":
        return 2 * (group - 1) / group
    return 1.0 if collective in ("broadcast", "send") else (group - 1) / group


def _derived(row: CollectiveRate, collective: CollectiveName, group: int) -> CollectiveCost:
    return CollectiveCost(
        latency=row.latency * hops(collective, group) / hops(row.collective, row.group),
        bandwidth=row.bandwidth * moved_share(row.collective, row.group) / moved_share(collective, group),
    )


def link_cost(link: Link, collective: CollectiveName, group: int) -> CollectiveCost:
    """A collective of workers that are all joined by one link, from the link's own figures."""
    return CollectiveCost(
        latency=link.latency * hops(collective, group), bandwidth=link.bandwidth / moved_share(collective, group)
    )


def _shared_link(cluster: Cluster, strategy: Strategy) -> Link:
    hosts = {worker.host for worker in strategy.workers}
    on_cpu = strategy.workers[0].device == "cpu"
    wanted: tuple[Tier, ...] = ("network", "rack") if len(hosts) > 1 else _PROCESSOR_TIERS if on_cpu else ("host",)
    return first_link(cluster, wanted, missing=f"between {strategy.num_workers} workers on {len(hosts)} hosts")


def first_link(cluster: Cluster, tiers: Sequence[Tier], *, missing: str) -> Link:
    """The cluster's link of the first of some tiers that it has.

    Args:
        cluster: with links.
        tiers: in order of preference.
        missing: what the cluster has no link for, where it has none of them.

    Raises:
        HardwareError: names the links that there are.
    """
    for tier in tiers:
        for link in cluster.links:
            if link.tier == tier:
                return link
    raise HardwareError(
        f"cluster {cluster.name!r} has no link {missing}",
        cause=f"its links are: {', '.join(link.tier for link in cluster.links) or 'none'}",
        alternatives=[f"add a link of tier {tiers[0]!r} to the cluster file"],
        command="meshwright hardware --fresh --save cluster.toml",
    )
