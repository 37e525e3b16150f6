"""A cluster in a few characters: `h100:8x64` is 64 hosts of 8 H100 each, with the catalogue's figures.

`h100:8x4x16` is 16 racks of 4 such hosts; `h100:8x4x16/3` has a third of the hosts' bandwidth between racks.
`h100:8x2+a100:8x4` is 2 hosts of one kind beside 4 of another.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

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

    With racks, hosts are counted per rack, and between racks there is the hosts' network over the taper. Kinds of hosts
    are joined by `+`; whatever lies between them is the slowest of what the kinds have.

    Raises:
        UsageError: not of that form, no such device, or its hosts' network is not known.
    """
    parts = [_parsed(part.strip(), text=text) for part in text.split("+")]
    if len(parts) > 1 and any(part.racks > 1 for part in parts):
        raise UsageError(
            f"{text!r} has several kinds of hosts, and racks",
            cause="the short form does not say which rack a host is in",
            alternatives=["kinds without racks: h100:8x2+a100:8x4", "a cluster file with a link of tier 'rack'"],
            command="meshwright hardware --save cluster.toml",
        )
    known, together = catalog(), sum(part.hosts * part.racks for part in parts)
    each = [_links(known, part, hosts=together) for part in parts]
    links = _slowest(each)
    if parts[0].racks > 1:
        links = _with_racks(links, devices=parts[0].devices, hosts=parts[0].hosts, taper=parts[0].taper)
    return Cluster(
        name=text.strip(),
        hosts=tuple(
            Host(name=name, count=part.hosts * part.racks, device=device_of(known, part.entry), devices=part.devices)
            for name, part in zip(_names(parts), parts, strict=True)
        ),
        links=tuple(links),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """Hosts of one kind, as written."""

    device: str
    entry: CatalogEntry
    devices: int
    hosts: int
    racks: int
    taper: float


def _parsed(part: str, *, text: str) -> _Part:
    match = _FORM.fullmatch(part)
    if match is None:
        raise UsageError(
            f"{text!r} names no cluster",
            cause="a cluster is written DEVICE, DEVICE:DEVICES, DEVICE:DEVICESxHOSTS or …xRACKS or …xRACKS/TAPER",
            alternatives=[
                "h100:8x64 is 64 hosts of 8 H100 each",
                "h100:8x4x16/3 is 16 racks of 4 such hosts, with a third of the hosts' bandwidth between racks",
                "h100:8x2+a100:8x4 is 2 hosts of one kind beside 4 of another",
                "a cluster file: --cluster cluster.toml",
            ],
            command="meshwright hardware --save cluster.toml",
        )
    devices, hosts, racks = (int(match[name] or 1) for name in ("devices", "hosts", "racks"))
    entry = catalog_entry(catalog(), match["device"])
    return _Part(
        device=match["device"].lower(), entry=entry, devices=devices, hosts=hosts, racks=racks,
        taper=float(match["taper"] or 1),
    )  # fmt: skip


def _names(parts: Sequence[_Part]) -> list[str]:
    """A name for each kind's hosts; numbered where two kinds are of one device."""
    devices = [part.device for part in parts]
    return [
        device if devices.count(device) == 1 else f"{device}-{'abcdefghijklmnopqrstuvwxyz'[place]}"
        for place, device in enumerate(devices)
    ]


def _slowest(each: Sequence[Sequence[Link]]) -> list[Link]:
    """Of every tier the slowest link; racks are left out that not all kinds of hosts have."""
    found = []
    for link in each[0]:
        others = [other for links in each for other in links if other.tier == link.tier]
        if link.tier == "rack" and len(each) > 1:
            continue
        found.append(min(others, key=lambda one: one.bandwidth))
    tiers = {link.tier for link in found}
    return found + [link for links in each[1:] for link in links if link.tier not in tiers | {"rack"}]


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


def _links(known: Catalog, part: _Part, *, hosts: int) -> list[Link]:
    """What joins hosts of a kind, of which or beside which there are so many."""
    entry, devices = part.entry, part.devices
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
                f"one host: {part.device}:{devices}",
                "a cluster file with a link of tier 'network'",
            ],
            command="meshwright hardware --save cluster.toml",
        )
    return links
