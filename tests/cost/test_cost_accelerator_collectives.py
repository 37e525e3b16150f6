"""Collective times, against values computed by hand."""

from dataclasses import replace

import pytest
from accelerator_builders import CALIBRATION, MACHINE

from meshwright.cost.accelerator import Collectives, Rack, machine_of
from meshwright.cost.accelerator._machine import LINK_LATENCY
from meshwright.hardware import Topology, parse_cluster
from meshwright.hardware._catalog import catalog

TIMES = Collectives(MACHINE, CALIBRATION.network)
# NVLink 4 joins devices through switches that add.
ADDING = Collectives(replace(MACHINE, device="NVIDIA made up", link=4.5e11), CALIBRATION.network)


def test_inside_a_host_a_ring_runs_over_the_link() -> None:
    """8 devices gather 80 MB: 7 hops of 1 µs, 70 MB at 100 GB/s."""
    assert TIMES.gather(8, 1, 80e6) == pytest.approx(7e-6 + 70e6 / 1e11)


def test_a_switch_that_adds_halves_an_all_reduce() -> None:
    """8 devices reduce 80 MB: 2·3 hops of a tree, 140 MB at 900 GB/s; others and older ones copy, at 100."""
    assert ADDING.all_reduce(8, 1, 80e6) == pytest.approx(6e-6 + 140e6 / 9e11)
    assert TIMES.all_reduce(8, 1, 80e6) == pytest.approx(6e-6 + 140e6 / 1e11)
    mesh = Collectives(replace(ADDING.machine, topology="mesh"), CALIBRATION.network)
    assert mesh.all_reduce(8, 1, 80e6) == pytest.approx(6e-6 + 140e6 / 4.5e11)


@pytest.mark.parametrize(("topology", "share", "part"), [("ring", 1 / 2, 1 / 2), ("torus", 1 / 4, 2 / 8**0.5),
                                                         ("mesh", 1 / 7, 1.0), ("switch", 1.0, 1.0)])  # fmt: skip
def test_messages_take_the_links_there_are(topology: Topology, share: float, part: float) -> None:
    """8 MB to a neighbour over one of a device's links; all to all of 8 devices through those between."""
    times = Collectives(replace(MACHINE, topology=topology), CALIBRATION.network)
    assert times.send(1, 8e6) == pytest.approx(1e-6 + 8e6 / (1e11 * share))
    assert times.all_to_all(8, 1, 8e6) == pytest.approx(8e-6 + 7e6 / (1e11 * part))


def test_between_hosts_a_ring_crosses_with_all_its_cards() -> None:
    """64 neighbours on 8 hosts cross with 8 cards, 80 GB/s; 8 that stand a host apart with one, 10 GB/s."""
    assert TIMES.gather(64, 1, 64e9) == pytest.approx(63e-5 + 63e9 / 8e10)
    assert TIMES.gather(8, 8, 80e9) == pytest.approx(7e-5 + 70e9 / 1e10)


def test_three_tiers_are_a_bottleneck_each() -> None:
    """Racks of 4 hosts with 10 GB/s a device inside, 2 between: what leads out of a rack is shared by what it is for.

    32 neighbours fill a rack and cross its hosts with 8 cards, 80 GB/s; 64 leave it with 32 devices' part, 64 GB/s; 8
    that stand a host apart cross with one card, 10 GB/s, and leave with 4 devices' part, 8 GB/s. A hop takes 1 ms in a
    rack and 5 out of it; one in four hosts' hops leads out: 2 ms in the mean.
    """
    racks = replace(
        MACHINE, rack=Rack(devices=32, network=1e10, latency=1e-3), network=2e9, latency=5e-3, num_devices=64
    )
    times = Collectives(racks, CALIBRATION.network)
    assert times.gather(8, 1, 80e6) == TIMES.gather(8, 1, 80e6)
    assert times.gather(32, 1, 32e9) == pytest.approx(31e-3 + 31e9 / 8e10)
    assert times.gather(64, 1, 64e9) == pytest.approx(63 * 2e-3 + 63e9 / 6.4e10)
    assert times.gather(8, 8, 80e9) == pytest.approx(7 * 2e-3 + 70e9 / 8e9)
    assert times.send(8, 1e9) == pytest.approx(1e-3 + 0.1)
    assert times.send(32, 1e9) == pytest.approx(2e-3 + 0.5)


def test_a_rack_as_fast_as_a_host_is_one_domain_and_a_slower_one_a_network() -> None:
    """72 devices on NVLink in 18 hosts of 4; 32 H100 in 4 hosts of 8, 50 GB/s each among them and 25 between racks."""
    assert machine_of(parse_cluster("gb200:4x18")).domain == 72
    where = machine_of(parse_cluster("h100:8x4x16/2"))
    assert (where.domain, where.link, where.network) == (8, 450e9, 25e9)
    assert where.rack is not None
    assert (where.rack.devices, where.rack.network) == (32, 50e9)


def test_two_levels_are_faster_where_hosts_are_far_and_few_cards_cross() -> None:
    """8 hosts of 8 that are 1 ms apart reduce 800 MB: twice 7 hops of 1 µs and 700 MB at 100 GB/s inside, then 100 MB.

    Between the hosts a ring of one device in each: 14 hops of 1 ms, twice 7/8 of the 100 MB at 10 GB/s. A ring of all
    has 126 hops of 1 ms; a tree with a slope of 1 takes four times as long for the 1.6 GB over 8 cards.
    """
    far = replace(CALIBRATION.network, network_hop=100.0, tree_slope=1.0)
    times = Collectives(MACHINE, far)
    assert times.all_reduce(64, 1, 800e6) == pytest.approx(2 * (7e-6 + 700e6 / 1e11) + 14e-3 + 175e6 / 1e10)


def test_pieces_pay_the_latency_each() -> None:
    """In 10 pieces: 10 times 7 hops of 10 µs."""
    assert TIMES.gather(8, 8, 80e9, calls=10) == pytest.approx(70e-5 + 7)


def test_small_all_reduces_take_the_tree() -> None:
    """8 hosts, nothing to send: 2·2·log2(8) hops of 10 µs, where a ring has 2·63."""
    assert TIMES.all_reduce(64, 1, 0.0) == pytest.approx(2 * 2 * 3 * 1e-5)


def test_links_without_a_switch_reach_their_own_share() -> None:
    """PCIe at 30 GB/s reaches a fifth of it, and adds nothing on the way."""
    slow = Collectives(replace(MACHINE, link=3e10), CALIBRATION.network)
    assert slow.all_reduce(2, 1, 6e9) == pytest.approx(2e-6 + 6e9 / 6e9)


def test_one_device_exchanges_nothing() -> None:
    """A group of one takes no time."""
    assert TIMES.gather(1, 1, 1e9) == TIMES.all_reduce(1, 1, 1e9) == TIMES.all_to_all(1, 1, 1e9) == 0.0


def test_all_to_all_uses_one_card_each() -> None:
    """16 devices on 2 hosts: 15/16 of 16 MB at 10 GB/s, 16 messages of 10 µs."""
    assert TIMES.all_to_all(16, 1, 16e6) == pytest.approx(15e6 / 1e10 + 16e-5)


def test_a_link_s_latency_counts_as_a_cluster_s_file_says_it() -> None:
    """Three times the catalogue's latency inside a host is three times a hop; the catalogue's is what was fitted at."""
    assert catalog().latency["link"].value == LINK_LATENCY
    slow = Collectives(replace(MACHINE, link_latency=3 * LINK_LATENCY), CALIBRATION.network)
    assert slow.gather(8, 1, 80e6) == pytest.approx(TIMES.gather(8, 1, 80e6) + 14e-6)
    cluster = parse_cluster("h100:8x2")
    links = tuple(replace(link, latency=1e-3, topology="ring") for link in cluster.links)
    found = machine_of(replace(cluster, links=links))
    assert (found.link_latency, found.network_topology) == (1e-3, "ring")


@pytest.mark.parametrize(
    ("topology", "part", "share"), [("ring", 1 / 2, 1 / 2), ("torus", 2 / 8**0.5, 1 / 4), ("mesh", 1.0, 1 / 7)]
)
def test_hosts_are_joined_as_a_cluster_s_file_says(topology: Topology, part: float, share: float) -> None:
    """8 hosts of 8: all to all through the hosts between, a message to the next host over one of a host's links."""
    times = Collectives(replace(MACHINE, network_topology=topology), CALIBRATION.network)
    extra = 63e6 / 1e10 * (1 / part - 1)
    assert times.all_to_all(64, 1, 64e6) == pytest.approx(TIMES.all_to_all(64, 1, 64e6) + extra)
    assert times.send(8, 8e6) == pytest.approx(TIMES.send(8, 8e6) + 8e6 / 1e10 * (1 / share - 1))
    assert times.all_reduce(64, 1, 1e9) >= TIMES.all_reduce(64, 1, 1e9)
