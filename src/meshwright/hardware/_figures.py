"""Figures of a cluster that somebody wrote by hand: what cannot be is refused where it is read, not priced."""

from collections.abc import Iterator
from math import inf
from pathlib import Path

from meshwright.errors import DocumentError
from meshwright.hardware._cluster import Cluster
from meshwright.units import format_scaled

# Writes a file in which everything may be looked up.
EXAMPLE = "meshwright hardware --save cluster.toml"
_REACH = ("a number of devices, and not below 0", "the number of devices that a rack joins: reach = 32, say")


def check_figures(cluster: Cluster, path: Path) -> None:
    """Refuses counts below 1, bandwidths and memory that are not above 0, and negative times and rates.

    Raises:
        DocumentError: with the first such figure and what it may be.
    """
    for name, value, holds, rule in _figures(cluster):
        if not holds:
            raise DocumentError(
                f"{path}: {name} is {value:g}",
                cause=f"it is {rule}",
                alternatives=["leave out a link that there is not, and a rate that is not known"],
                command=EXAMPLE,
            )
    _check_tiers(cluster, path)


def _check_tiers(cluster: Cluster, path: Path) -> None:
    """Refuses two links of one tier, of which one would be priced."""
    tiers = [link.tier for link in cluster.links]
    twice = next((tier for tier in tiers if tiers.count(tier) > 1), None)
    if twice is not None:
        rates = " and ".join(format_scaled(link.bandwidth, "B/s") for link in cluster.links if link.tier == twice)
        raise DocumentError(
            f"{path}: {tiers.count(twice)} links are of tier {twice!r}, of {rates}",
            cause="a tier joins its devices in one way",
            alternatives=[
                "tier 'host' inside hosts, 'network' between them, 'rack' with its reach between hosts near each other",
                "leave out one of them",
            ],
            command=EXAMPLE,
        )


def _figures(cluster: Cluster) -> Iterator[tuple[str, float, bool, str]]:
    """Name, value, whether it can be, and what it may be."""
    for place, host in enumerate(cluster.hosts):
        yield f"hosts.{place}.count", host.count, host.count >= 1, "at least 1"
        yield f"hosts.{place}.devices", host.devices, host.devices >= 1, "at least 1"
        yield f"hosts.{place}.loading", host.loading, host.loading >= 0, "in B/s, and not below 0"
        memory = host.device.memory
        yield f"hosts.{place}.device.memory", memory, memory > 0, "in bytes, and above 0"
        for name, unit in (("price", "$ per device and hour"), ("power", "W"), ("context", "bytes")):
            value = getattr(host.device, name)
            yield f"hosts.{place}.device.{name}", value, 0 <= value < inf, f"in {unit}, and not below 0"
        yield f"hosts.{place}.device.cores", host.device.cores, host.device.cores >= 1, "at least 1"
        for number, rate in enumerate(host.device.matrix_rates):
            yield f"hosts.{place}.device.matrix_rates.{number}.rate", rate.rate, rate.rate > 0, "in FLOP/s, and above 0"
    for place, link in enumerate(cluster.links):
        yield f"links.{place}.latency", link.latency, link.latency >= 0, "in seconds, and not below 0"
        yield f"links.{place}.bandwidth", link.bandwidth, link.bandwidth > 0, "in B/s, and above 0"
        fewest = 1 if link.tier == "rack" else 0
        yield f"links.{place}.reach", link.reach, link.reach >= fewest, _REACH[fewest]
