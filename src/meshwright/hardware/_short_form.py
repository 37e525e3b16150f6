"""A cluster in a few characters: `h100:8x64` is 64 hosts of 8 H100 each, with the catalogue's figures.

`h100:8x4x16` is 16 racks of 4 such hosts; `h100:8x4x16/3` has a third of the hosts' bandwidth between racks.
"""

import re
from dataclasses import replace

from meshwright.errors import UsageError
from meshwright.hardware._catalog import Catalog, CatalogEntry, catalog, catalog_entry, device_of, link_topology
from meshwright.hardware._cluster import Cluster, Host, Link

_COUNT = r"[1-9]\d*"
_FORM = re.compile(
    rf"(?P<device>[^:]+)(?::(?P<devices>{_COUNT})"
    rf"(?:x(?P<hosts>{_COUNT})(?:x(?P<racks>{_COUNT})(?:/(?P<taper>{_COUNT}(?:\.\d+)?))?)?)?)?"
)


def parse_cluster(text: str) -> Cluster:
    """The cluster that a short form names: `DEVICE`, `:DEVICES`, `xHOSTS`, `xRACKS`, `/TAPER`, each after the other.

    With racks, hosts are counted per rack, and between racks there is the hosts' network over the taper.

    Raises:
        UsageError: not of that form, no such device, or its hosts' network is not known.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"{text!r} names no cluster",
            cause="a cluster is written DEVICE, DEVICE:DEVICES, DEVICE:DEVICESxHOSTS or …xRACKS or …xRACKS/TAPER",
            alternatives=[
                "h100:8x64 is 64 hosts of 8 H100 each",
                "h100:8x4x16/3 is 16 racks of 4 such hosts, with a third of the hosts' bandwidth between racks",
                "a cluster file: --cluster cluster.toml",
            ],
            command="meshwright hardware --save cluster.toml",
        )
    known = catalog()
    entry = catalog_entry(known, match["device"])
    devices, hosts, racks = (int(match[name] or 1) for name in ("devices", "hosts", "racks"))
    links = _links(known, entry, text=text.strip(), devices=devices, hosts=hosts * racks)
    if racks > 1:
        links = _with_racks(links, devices=devices, hosts=hosts, taper=float(match["taper"] or 1))
    return Cluster(
        name=text.strip(),
        hosts=(
            Host(name=match["device"].lower(), count=hosts * racks, device=device_of(known, entry), devices=devices),
        ),
        links=tuple(links),
    )


def _with_racks(links: list[Link], *, devices: int, hosts: int, taper: float) -> list[Link]:
    """A rack's hosts on the network that there is, and less of it between racks; wider links of a host stay."""
    network = next((link for link in links if link.tier == "network"), None)
    if network is None:
        return links
    near = Link(
        tier="rack", latency=network.latency, bandwidth=network.bandwidth / devices, topology="tree",
        reach=devices * hosts,
    )  # fmt: skip
    found = [] if any(link.tier == "rack" for link in links) else [near]
    others = [link for link in links if link.tier != "network"]
    return [*others, *found, replace(network, bandwidth=network.bandwidth / taper)]


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
    if hosts > 1 and entry.network is not None and hosts * devices > entry.link_reach:
        links.append(Link(tier="network", latency=far, bandwidth=entry.network.value, topology="tree"))
    if hosts > 1 and not any(link.tier in ("rack", "network") for link in links):
        raise UsageError(
            f"the catalogue does not know what network {hosts} hosts of {entry.name} have",
            cause="no document it is made from says it",
            alternatives=[
                f"one host: {text.partition(':')[0]}:{devices}",
                "a cluster file with a link of tier 'network'",
            ],
            command="meshwright hardware --save cluster.toml",
        )
    return links
