"""A cluster of many hosts from the measurement of one: its rates as measured, the network between hosts as said.

What the measurement does not know is taken from the catalogue where it has the device: what network such hosts come
with, the latency of a hop, power and price.
"""

from collections.abc import Mapping
from dataclasses import replace

from meshwright.errors import UsageError
from meshwright.hardware._catalog import Catalog, CatalogEntry, catalog
from meshwright.hardware._cluster import Cluster, Link
from meshwright.hardware._device import Device
from meshwright.units import BytesPerSecond


def hosts_like(cluster: Cluster, count: int, *, network: BytesPerSecond = 0.0) -> Cluster:
    """So many hosts like the first of a cluster, and the network between them.

    The result has no identity, for it is no machine that was measured: plans for it are searched and not tried.

    Args:
        cluster: one host, measured.
        count: of hosts.
        network: bandwidth of a whole host, one way (B/s); 0: as the catalogue says of the device.

    Raises:
        UsageError: the network was not said, and the catalogue does not know it.
    """
    known, host = catalog(), cluster.hosts[0]
    entry = entry_of(known, host.device)
    links = tuple(link for link in cluster.links if link.tier != "network")
    if count > 1:
        links += (_network(known, entry, host.device, network),)
    described = replace(host, count=count, device=_completed(host.device, entry))
    return replace(cluster, name=f"{cluster.name} x {count}", identity="", hosts=(described,), links=links)


def entry_of(known: Catalog, device: Device) -> CatalogEntry | None:
    """The catalogue's entry of a device, by its name or a word of it: `NVIDIA H100 80GB HBM3` is `h100`."""
    named = next((entry for entry in known.devices.values() if entry.name == device.name), None)
    if named is not None:
        return named
    words = device.name.lower().replace("-", " ").split()
    entries: Mapping[str, CatalogEntry] = known.devices
    return next((entry for key, entry in entries.items() if key in words and entry.kind == device.kind), None)


def _network(known: Catalog, entry: CatalogEntry | None, device: Device, said: BytesPerSecond) -> Link:
    bandwidth = said or (entry.network.value if entry is not None and entry.network is not None else 0.0)
    if not bandwidth:
        raise UsageError(
            f"the catalogue does not know what network hosts of {device.name} have",
            cause="one host was measured, and what is between hosts cannot be",
            alternatives=["say it: --network 25GB/s, or --network 100Gbit/s, of a whole host, one way"],
            command="meshwright hardware --save cluster.toml --hosts 16 --network 100Gbit/s",
        )
    return Link(tier="network", latency=known.latency["network"].value, bandwidth=bandwidth, topology="tree")


def _completed(device: Device, entry: CatalogEntry | None) -> Device:
    """The device with power and price, where it lacks them and the catalogue has them."""
    if entry is None:
        return device
    prices = [figure.value for figure in (entry.price_low, entry.price_high) if figure is not None]
    price = device.price or (sum(prices) / len(prices) if prices else 0.0)
    return replace(device, power=device.power or (entry.power.value if entry.power else 0.0), price=price)
