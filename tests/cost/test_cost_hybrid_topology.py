"""Collectives by the links' own figures over three tiers, against values computed by hand."""

from dataclasses import replace

import pytest

from meshwright.cost.hybrid import Group, crossed_tier
from meshwright.cost.hybrid._topology import group_cost
from meshwright.hardware import Cluster, Link, parse_cluster

HOSTS = parse_cluster("h100:8x16").hosts
CLUSTER = Cluster(
    name="three tiers",
    hosts=HOSTS,
    links=(
        Link(tier="host", latency=1e-6, bandwidth=300e9),
        Link(tier="rack", latency=1e-5, bandwidth=25e9, reach=32),
        Link(tier="network", latency=5e-5, bandwidth=20e9),
    ),
)


@pytest.mark.parametrize(
    ("degree", "stride", "tier", "bandwidth"),
    [
        (8, 1, "host", 300e9),
        (32, 1, "rack", 8 * 25e9),
        (64, 1, "network", 32 * 20e9 / 8),
        (8, 8, "network", 4 * 20e9 / 8),
        (4, 8, "rack", 25e9),
    ],
)
def test_the_slowest_tier_that_a_ring_crosses_binds(degree: int, stride: int, tier: str, bandwidth: float) -> None:
    """In a host its link; in a rack a card of each member there; between racks what its members there may send out."""
    group = Group(degree=degree, stride=stride)
    assert crossed_tier(CLUSTER, HOSTS[0], group) == tier
    found = group_cost(CLUSTER, HOSTS[0], group, "all_gather")
    assert found.bandwidth == pytest.approx(bandwidth / ((degree - 1) / degree))


def test_a_rack_as_fast_as_a_host_is_one_ring() -> None:
    """31 hops of 1 µs at the link's 300 GB/s."""
    fast = replace(CLUSTER.links[1], bandwidth=300e9, latency=1e-6)
    found = group_cost(
        replace(CLUSTER, links=(CLUSTER.links[0], fast)), HOSTS[0], Group(degree=32, stride=1), "all_gather"
    )
    assert found.latency == pytest.approx(31e-6)
    assert found.bandwidth == pytest.approx(300e9 / (31 / 32))
