"""What a calibration does to a cluster of the catalogue, and what it leaves alone."""

from dataclasses import replace

import pytest
from accelerator_builders import CALIBRATION

from meshwright.cost.accelerator import fitted_cluster
from meshwright.hardware import CollectiveRate, parse_cluster


def test_large_matrices_reach_the_fitted_share() -> None:
    """With half of an H100's 794.5 TFLOP/s, 8192 squared is within 5 % of that; small ones are slower."""
    fitted = replace(CALIBRATION, kernels=replace(CALIBRATION.kernels, half=0.5, inner=128.0, memory=0.8))
    device = fitted_cluster(parse_cluster("h100:8x2"), fitted=fitted).hosts[0].device
    curve = {row.size: row.rate for row in device.matrix_rates if row.dtype == "bfloat16"}
    assert curve[8192] == pytest.approx(0.5 * 794.5e12 / (1 + 128 / 8192), rel=0.05)
    assert list(curve.values()) == sorted(curve.values())
    assert next(row.bandwidth for row in device.operation_rates if row.kind == "copy") == pytest.approx(0.8 * 3350e9)


def test_links_get_their_shares_unless_measured() -> None:
    """Inside a host and between hosts; a link with measured collectives keeps its bandwidth."""
    shares = replace(CALIBRATION.network, link=0.6, network=0.5)
    cluster = parse_cluster("h100:8x2")
    links = {link.tier: link for link in fitted_cluster(cluster, fitted=replace(CALIBRATION, network=shares)).links}
    assert links["host"].bandwidth == pytest.approx(0.6 * 450e9)
    assert links["network"].bandwidth == pytest.approx(0.5 * 400e9)
    measured = CollectiveRate(collective="all_reduce", transport="nccl", group=8, latency=1e-5, bandwidth=1e11)
    kept = replace(cluster, links=tuple(replace(link, collectives=(measured,)) for link in cluster.links))
    assert fitted_cluster(kept, fitted=replace(CALIBRATION, network=shares)).links == kept.links


def test_what_was_fitted_is_not_fitted_again() -> None:
    """A second time changes nothing."""
    once = fitted_cluster(parse_cluster("h100:8x4"))
    assert fitted_cluster(once) is once


def test_processors_and_measured_devices_stay() -> None:
    """What was measured here, and any CPU, is not touched."""
    cluster = parse_cluster("epyc-9654:1")
    assert fitted_cluster(cluster) is cluster
    gpu = parse_cluster("h100:8")
    measured = replace(gpu, hosts=(replace(gpu.hosts[0], device=replace(gpu.hosts[0].device, source="measured")),))
    assert fitted_cluster(measured) is measured
