r"""Collectives along a mesh axis, by the tiers of links that its groups lie on.

A group of $n$ workers that stand $s$ devices apart has $g$ of them in a host of $D$ devices, and $D / g$ groups share
the host's network. With a link of $B$ inside and a network of $N$ per host, its ring runs at
$\min(B, N g / D)$, an all-to-all at $\min(B, N / D)$; with $r$ of its workers in a rack, what leads out of racks is
$N r / D$. The latency is the shorter one of a ring's and of a tree between the hosts with rings inside.
"""

from dataclasses import dataclass
from math import ceil, log2

from meshwright.cost._communication import CollectiveCost, first_link, hops, link_cost, moved_share
from meshwright.hardware import Cluster, CollectiveName, Host, Link, Tier


def workers_on(host: Host, *, threads: int, workers: int) -> int:
    """How many of a layout's workers share one machine's memory and caches: those on a processor; 1 for accelerators.

    Args:
        host: what they stand on; machines are filled one after another.
        threads: of a worker.
        workers: of the layout.
    """
    return min(workers, max(1, host.device.cores // threads)) if host.device.kind == "cpu" else 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Workers that meet along an axis.

    Args:
        degree: how many.
        stride: how many devices apart neighbours stand.
    """

    degree: int
    stride: int


def group_cost(cluster: Cluster, host: Host, group: Group, name: CollectiveName) -> CollectiveCost:
    """The price of one collective over a group of accelerators.

    Raises:
        HardwareError: the cluster has no link that these workers share.
    """
    near = min(group.degree, max(1, host.devices // group.stride))
    extent = group.degree * group.stride
    if extent <= host.devices or near >= group.degree:
        return link_cost(_link(cluster, "host"), name, group.degree)
    inside, rack = _find(cluster, "host"), _find(cluster, "rack")
    reach = rack.reach or host.devices if rack is not None else 0
    if rack is not None and extent <= reach and (inside is None or rack.bandwidth >= inside.bandwidth):
        return link_cost(rack, name, group.degree)
    network = rack if rack is not None and extent <= reach else _link(cluster, "network", "rack")
    each = 1 if network.tier == "rack" else host.devices  # a rack's figures are of a device
    apart = name == "all_to_all"  # every worker sends by itself; a ring leaves the host once for all of it
    bandwidth = network.bandwidth * (1 if apart else near) / each
    if rack is not None and network is not rack:
        together = 1 if apart else max(near, min(group.degree, reach // group.stride))
        cards = rack.bandwidth * (1 if apart else near)
        bandwidth = min(cards, network.bandwidth * together / each)
    inside = inside or network
    if near > 1:
        bandwidth = min(inside.bandwidth, bandwidth)
    hosts = ceil(group.degree / near)
    tree = 2 * ceil(log2(max(2, hosts))) * network.latency + hops(name, near) * inside.latency
    return CollectiveCost(
        latency=min(tree, hops(name, group.degree) * network.latency),
        bandwidth=bandwidth / moved_share(name, group.degree),
    )


def crossed_tier(cluster: Cluster, host: Host, group: Group) -> str:
    """The widest tier that a group's collectives cross."""
    extent = group.degree * group.stride
    if group.degree == 1 or extent <= host.devices:
        return "host"
    rack = _find(cluster, "rack")
    return "rack" if rack is not None and extent <= (rack.reach or host.devices) else "network"


def _find(cluster: Cluster, tier: Tier) -> Link | None:
    return next((link for link in cluster.links if link.tier == tier), None)


def _link(cluster: Cluster, *tiers: Tier) -> Link:
    return first_link(cluster, tiers, missing=f"of tier {tiers[0]!r}")
