"""Figures of a cluster that somebody wrote by hand: what cannot be is refused where it is read, not priced."""

from collections.abc import Iterator
from pathlib import Path

from meshwright.errors import DocumentError
from meshwright.hardware._cluster import Cluster

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
            )


def _figures(cluster: Cluster) -> Iterator[tuple[str, float, bool, str]]:
    """Name, value, whether it can be, and what it may be."""
    for place, host in enumerate(cluster.hosts):
        yield f"hosts.{place}.count", host.count, host.count >= 1, "at least 1"
        yield f"hosts.{place}.devices", host.devices, host.devices >= 1, "at least 1"
        yield f"hosts.{place}.loading", host.loading, host.loading >= 0, "in B/s, and not below 0"
        memory = host.device.memory
        yield f"hosts.{place}.device.memory", memory, memory > 0, "in bytes, and above 0"
    for place, link in enumerate(cluster.links):
        yield f"links.{place}.latency", link.latency, link.latency >= 0, "in seconds, and not below 0"
        yield f"links.{place}.bandwidth", link.bandwidth, link.bandwidth > 0, "in B/s, and above 0"
        fewest = 1 if link.tier == "rack" else 0
        yield f"links.{place}.reach", link.reach, link.reach >= fewest, _REACH[fewest]
