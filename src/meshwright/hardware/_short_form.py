"""A cluster in a few characters: `h100:8x64` is 64 hosts of 8 H100 each, with the catalogue's figures."""

import re

from meshwright.errors import UsageError
from meshwright.hardware._catalog import Catalog, CatalogEntry, catalog, catalog_entry, device_of, link_topology
from meshwright.hardware._cluster import Cluster, Host, Link

_FORM = re.compile(r"(?P<device>[^:]+)(?::(?P<devices>[1-9]\d*)(?:x(?P<hosts>[1-9]\d*))?)?")


def parse_cluster(text: str) -> Cluster:
    """The cluster that a short form names: `DEVICE`, `DEVICE:DEVICES` or `DEVICE:DEVICESxHOSTS`.

    Raises:
        UsageError: not of that form, no such device, or its hosts' network is not known.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"{text!r} names no cluster",
            cause="a cluster is written DEVICE, DEVICE:DEVICES or DEVICE:DEVICESxHOSTS",
            alternatives=["h100:8x64 is 64 hosts of 8 H100 each", "a cluster file: --cluster cluster.toml"],
            command="meshwright hardware --save cluster.toml",
        )
    known = catalog()
    entry = catalog_entry(known, match["device"])
    devices, hosts = int(match["devices"] or 1), int(match["hosts"] or 1)
    return Cluster(
        name=text.strip(),
        hosts=(Host(name=match["device"].lower(), count=hosts, device=device_of(known, entry), devices=devices),),
        links=tuple(_links(known, entry, text=text.strip(), devices=devices, hosts=hosts)),
    )


def _links(known: Catalog, entry: CatalogEntry, *, text: str, devices: int, hosts: int) -> list[Link]:
    links = []
    near, far = known.latency["link"].value, known.latency["network"].value
    if entry.kind == "cpu":
        # Workers on one processor exchange through its memory: each byte is written once and read once.
        links.append(Link(tier="process", latency=near, bandwidth=entry.bandwidth.value / 2))
    elif entry.link is not None:
        shape = link_topology(entry)
        links.append(Link(tier="host", latency=near, bandwidth=entry.link.value, topology=shape))
        if hosts > 1 and entry.link_reach > devices:
            links.append(
                Link(tier="rack", latency=near, bandwidth=entry.link.value, topology=shape, reach=entry.link_reach)
            )
    if hosts > 1 and entry.network is not None:
        links.append(Link(tier="network", latency=far, bandwidth=entry.network.value, topology="tree"))
    if hosts > 1 and not any(link.tier in ("rack", "network") for link in links):
        raise UsageError(
            f"the catalogue does not know what network {hosts} hosts of {entry.name} have",
            cause="no document it is made from says it",
            alternatives=[f"one host: {text.rpartition('x')[0]}", "a cluster file with a link of tier 'network'"],
            command="meshwright hardware --save cluster.toml",
        )
    return links
