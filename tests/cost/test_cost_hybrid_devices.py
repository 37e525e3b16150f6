"""Which devices are priced as fitted to published runs, and which by what was measured on them."""

from dataclasses import replace

import pytest

from meshwright.cost import Mesh
from meshwright.cost.accelerator import calibration
from meshwright.cost.hybrid import Devices, Layout, Replica, devices_of
from meshwright.hardware import Cluster, CollectiveRate, parse_cluster


def _devices(cluster: Cluster) -> Devices:
    known = calibration()
    return devices_of(cluster, cluster.hosts, known, known.own)


def _layout(mesh: Mesh) -> Layout:
    return Layout(mesh=mesh, replicas=(Replica(count=mesh.num_shares, kinds=(0,) * mesh.pp, examples=1.0),))


def test_accelerators_of_the_catalogue_are_priced_as_fitted() -> None:
    """With collectives of hosts of eight, an interval to both sides, and a host that takes time for a layer."""
    devices = _devices(parse_cluster("h100:8x2"))
    assert devices.collectives is not None
    assert devices.collectives.machine.domain == 8
    low, high = devices.interval()
    assert low < 1 < high
    assert devices.host(0, _layout(Mesh(tp=8))) == calibration().own.host
    assert devices.step(_layout(Mesh(tp=8)), 1e9) == calibration().own.step


def test_what_was_measured_counts_as_it_is() -> None:
    """A device measured here has its rates; a link with measured collectives has theirs."""
    cluster = parse_cluster("h100:8x2")
    there = replace(cluster.hosts[0], device=replace(cluster.hosts[0].device, source="measured"))
    devices = _devices(replace(cluster, hosts=(there,)))
    assert devices.machines == (None,)
    assert devices.own_habits is None
    assert devices.interval() == (1.0, 1.0)
    assert devices.host(0, _layout(Mesh(tp=8))) == 0.0
    measured = CollectiveRate(collective="all_reduce", transport="nccl", group=8, latency=1e-5, bandwidth=1e11)
    kept = replace(cluster, links=tuple(replace(link, collectives=(measured,)) for link in cluster.links))
    assert _devices(kept).collectives is None


def test_an_interval_is_wider_on_devices_that_nothing_was_fitted_on() -> None:
    """By the calibration's factor, to both sides."""
    known, other = (_devices(parse_cluster(name)).interval() for name in ("h100:8", "mi300x:8"))
    spread = calibration().kernels.other_spread
    assert other == pytest.approx((known[0] / spread, known[1] * spread))
