"""Devices that are not here: the figures of `catalog.toml`, each with its source, and a `Device` made of them."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from statistics import median

from pydantic import TypeAdapter

from meshwright.errors import UsageError, suggestion
from meshwright.hardware._cluster import Topology
from meshwright.hardware._device import Device, MatrixRate, OperationRate

# The matrices with which achieved rates are measured are of this edge or larger; smaller ones are slower.
LARGE_EDGE = 4096
LARGE_TENSOR = 2**28


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A number and where it comes from.

    Args:
        value: in SI base units.
        source: key of the document in `Catalog.sources`.
        date: when it held, where that is not its document's date; ISO 8601.
    """

    value: float
    source: str
    date: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogEntry:
    """What is known of one device.

    Args:
        name: the maker's.
        kind: torch's device type.
        cores: of a processor; 1 for an accelerator.
        memory: B.
        bandwidth: of its memory (B/s).
        power: thermal design power (W).
        price_low: cheapest offer seen, per device and hour ($).
        price_high: dearest offer seen ($).
        link: to its neighbours in the host, one way (B/s).
        link_name: what the link is.
        link_reach: devices joined by it, where more than one host's.
        network: of a whole host, one way (B/s).
        host_link: what joins it to its host's memory, a key of `Catalog.host_link`.
        peaks: by data type, dense, as the maker says (FLOP/s).
        achieved: by data type, best measured (FLOP/s).
    """

    name: str
    kind: str
    cores: int = 1
    memory: Figure
    bandwidth: Figure
    power: Figure | None = None
    price_low: Figure | None = None
    price_high: Figure | None = None
    link: Figure | None = None
    link_name: str = ""
    link_reach: int = 0
    network: Figure | None = None
    host_link: str = "pcie4"
    peaks: Mapping[str, Figure]
    achieved: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalog:
    """Every device that is known.

    Args:
        sources: documents by the key that figures name.
        dates: of documents, or when those without a date were read; ISO 8601.
        latency: time of an empty message over one hop of `link` and of `network` (s).
        context: what a worker takes of an `accelerator` before any tensor (B).
        host_link: bandwidth between a device and its host's memory, one way, by what joins them (B/s).
        devices: by short name (`h100`).
    """

    sources: Mapping[str, str]
    dates: Mapping[str, str]
    latency: Mapping[str, Figure]
    context: Mapping[str, Figure]
    host_link: Mapping[str, Figure]
    devices: Mapping[str, CatalogEntry]

    def date(self, figure: Figure) -> str:
        """When a figure held: its own date, or its document's; empty where neither is known."""
        return figure.date or self.dates.get(figure.source, "")


@cache
def catalog() -> Catalog:
    """The catalogue that comes with the package, read once."""
    text = files("meshwright.hardware").joinpath("catalog.toml").read_text(encoding="utf-8")
    return TypeAdapter(Catalog).validate_python(tomllib.loads(text))


def catalog_entry(known: Catalog, name: str) -> CatalogEntry:
    """The entry of a short name (`h100`) or of the maker's full name, in any case.

    Raises:
        UsageError: there is none; names the nearest.
    """
    for key, entry in known.devices.items():
        if name.lower() in (key, entry.name.lower()):
            return entry
    raise UsageError(
        f"no device {name!r} in the catalogue",
        cause=suggestion(name.lower(), list(known.devices)),
        alternatives=[f"known devices: {', '.join(known.devices)}", "a cluster file that describes it"],
        command="meshwright hardware --save cluster.toml",
    )


def device_of(known: Catalog, entry: CatalogEntry) -> Device:
    """A device with the rates that are known or can be expected.

    A data type whose rate nobody measured gets the maker's peak times the share of it that was measured on others.
    Other operations run at the speed of the memory, as the maker says it.
    """
    share = typical_share(known, entry.name.split()[0])
    rates = {dtype: figure.value * share for dtype, figure in entry.peaks.items()}
    rates |= {dtype: figure.value for dtype, figure in entry.achieved.items()}
    prices = [figure.value for figure in (entry.price_low, entry.price_high) if figure is not None]
    return Device(
        kind=entry.kind,
        name=entry.name,
        cores=entry.cores,
        memory=int(entry.memory.value),
        context=int(known.context["accelerator"].value) if entry.kind != "cpu" else 0,
        power=entry.power.value if entry.power else 0.0,
        price=sum(prices) / len(prices) if prices else 0.0,
        source=f"catalogue: {'; '.join(known.sources[key] for key in _documents(entry))}",
        matrix_rates=tuple(
            MatrixRate(dtype=dtype, threads=entry.cores, size=LARGE_EDGE, rate=rate) for dtype, rate in rates.items()
        ),
        operation_rates=(
            OperationRate(
                kind="copy", threads=entry.cores, size=LARGE_TENSOR, bandwidth=entry.bandwidth.value, overhead=0.0
            ),
            *_to_host(known, entry),
        ),
    )


def _to_host(known: Catalog, entry: CatalogEntry) -> Iterator[OperationRate]:
    """Copies between an accelerator and its host."""
    if entry.kind == "cpu":
        return
    for variant in ("to_device", "from_device"):
        speed = known.host_link[entry.host_link].value
        yield OperationRate(kind="copy", size=LARGE_TENSOR, variant=variant, bandwidth=speed, overhead=0.0)


def link_topology(entry: CatalogEntry) -> Topology:
    """How a device's own links join it to others: a torus of TPUs and Trainium, all with all of AMD's and Gaudi."""
    known: tuple[tuple[str, Topology], ...] = (
        ("ICI", "torus"), ("NeuronLink", "torus"), ("Infinity Fabric", "mesh"), ("RoCE on-chip", "mesh"),
    )  # fmt: skip
    return next((shape for name, shape in known if entry.link_name.startswith(name)), "switch")


def typical_share(known: Catalog, maker: str) -> float:
    """Median share of the peak that was measured on a maker's devices; over all makers where none of its were."""
    shares = {
        (entry.name.split()[0], entry.name, dtype): figure.value / entry.peaks[dtype].value
        for entry in known.devices.values()
        for dtype, figure in entry.achieved.items()
    }
    own = [share for (owner, _, _), share in shares.items() if owner == maker]
    return median(own or shares.values())


def _documents(entry: CatalogEntry) -> list[str]:
    """Keys of the documents that an entry's figures come from, each once."""
    figures = [entry.memory, entry.bandwidth, *entry.peaks.values(), *entry.achieved.values(), entry.power]
    return list(dict.fromkeys(figure.source for figure in figures if figure is not None))
