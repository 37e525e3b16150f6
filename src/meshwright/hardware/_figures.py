"""Figures of a cluster that somebody wrote by hand: what cannot be is refused where it is read, not priced."""

from collections.abc import Iterator
from math import inf
from pathlib import Path

from meshwright.errors import DocumentError
from meshwright.hardware._cluster import Cluster
from meshwright.units import format_scaled

# Writes a file in which everything may be looked up.
EXAMPLE = "meshwright hardware --save cluster.toml"
# Beyond these a figure was written in another unit: no link is slower than this, and no device has less.
_SLOWEST, _LATEST, _LEAST_MEMORY, _LEAST_RATE = 1e5, 1.0, 2**20, 1e6
_REACH = ("a number of devices, and not below 0", "the number of devices that a rack joins: reach = 32, say")


def check_figures(cluster: Cluster, path: Path) -> None:
    """Refuses what cannot be: counts below 1, negative times, and figures that only another unit explains.

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
    _check_names(cluster, path)
    _check_reach(cluster, path)


def _check_names(cluster: Cluster, path: Path) -> None:
    """Refuses hosts of one name, unless they are a machine's accelerators and its processor."""
    names = [(host.name, host.device.kind == "cpu") for host in cluster.hosts]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DocumentError(
            f"{path}: {names.count(twice)} entries of hosts are named {twice[0]!r}",
            cause="workers are told their host by its name",
            alternatives=["a name for each entry; count = 4 makes four hosts of one"],
            command=EXAMPLE,
        )


def _check_reach(cluster: Cluster, path: Path) -> None:
    """Refuses racks that are smaller than a host."""
    most = max((host.devices for host in cluster.hosts), default=0)
    for place, link in enumerate(cluster.links):
        if link.tier == "rack" and link.reach < most:
            raise DocumentError(
                f"{path}: links.{place}.reach is {link.reach}, and a host has {most} devices",
                cause="a rack joins hosts: its reach is the number of devices of all of them",
                command=EXAMPLE,
            )


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
        rule = "in bytes, and at least 1 MiB: 80 GiB are 85899345920, or '80GiB'"
        yield f"hosts.{place}.device.memory", memory, memory >= _LEAST_MEMORY, rule
        for name, unit in (("price", "$ per device and hour"), ("power", "W"), ("context", "bytes")):
            value = getattr(host.device, name)
            yield f"hosts.{place}.device.{name}", value, 0 <= value < inf, f"in {unit}, and not below 0"
        yield f"hosts.{place}.device.cores", host.device.cores, host.device.cores >= 1, "at least 1"
        for number, rate in enumerate(host.device.matrix_rates):
            holds, rule = _LEAST_RATE <= rate.rate < inf, "in FLOP/s: 400 TFLOP/s are 400e12"
            yield f"hosts.{place}.device.matrix_rates.{number}.rate", rate.rate, holds, rule
    for place, link in enumerate(cluster.links):
        rule = "in seconds, not below 0 and at most 1: 5 microseconds are 5e-6, or '5us'"
        yield f"links.{place}.latency", link.latency, 0 <= link.latency <= _LATEST, rule
        rule = "in B/s, from 1e5 up: 25 GB/s are 25e9, or '25GB/s'"
        yield f"links.{place}.bandwidth", link.bandwidth, _SLOWEST <= link.bandwidth < inf, rule
        fewest = 1 if link.tier == "rack" else 0
        yield f"links.{place}.reach", link.reach, link.reach >= fewest, _REACH[fewest]
