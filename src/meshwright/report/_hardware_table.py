"""What is there, measured, as a table."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from meshwright.hardware import Cluster, CollectiveRate, Device, Host, Link, MatrixRate, OperationRate, Tier
from meshwright.units import format_bytes, format_scaled, format_seconds

# What the workers of a tier are to each other.
LINKS: dict[Tier, str] = {
    "process": "link between processes",
    "host": "link within a host",
    "rack": "link within a rack",
    "network": "network",
}
COUNTED_IN_FLOP = ("convolution", "attention", "recurrent")

Way = tuple[int, int]


def hardware_table(cluster: Cluster) -> RenderableType:
    """A cluster's devices, matrix rates, memory bandwidth and collectives, with when and under what load."""
    parts: list[RenderableType] = [Text(_title(cluster), style="bold"), _facts(hardware_rows(cluster))]
    for host in cluster.hosts:
        if host.device.matrix_rates or host.device.operation_rates:
            parts.append(Text(f"\n{host.device.name}", style="bold"))
        if host.device.matrix_rates:
            parts.append(_matrices(host.device))
        if host.device.operation_rates:
            parts.append(_operations(host.device))
    collectives = [(link.tier, rate) for link in cluster.links for rate in link.collectives]
    if collectives:
        parts.append(_collectives(collectives))
    return Group(*parts)


def hardware_rows(cluster: Cluster) -> list[tuple[str, str]]:
    """The facts about a cluster that fit in a line each, by name."""
    rows = [("name", cluster.name)]
    if cluster.measured_at:
        rows.append(("measured", f"{cluster.measured_at}, others kept {cluster.load:.0%} of the cores busy"))
    for host in cluster.hosts:
        rows.extend(_host_rows(host))
    for link in cluster.links:
        rows.append((LINKS[link.tier], _speed(link)))
    return rows


def _title(cluster: Cluster) -> str:
    devices = cluster.num_devices
    return f"{cluster.name}: {devices} device{'s' if devices != 1 else ''}, {cluster.num_cores} cores"


def _host_rows(host: Host) -> Iterator[tuple[str, str]]:
    device = host.device
    times = f"{host.count} × " if host.count > 1 else ""
    inside = f"{host.devices} × " if host.devices > 1 else ""
    cores = f", {device.cores} cores" if device.kind == "cpu" else ""
    yield f"host {host.name}", f"{times}{inside}{device.name}{cores}"
    context = f", a worker takes {format_bytes(device.context)} before any tensor" if device.context else ""
    yield "memory", f"{format_bytes(device.memory)}{context}"
    for dtype, rate in _best_rates(device.matrix_rates):
        how = f"{rate.threads} thread{'s' if rate.threads > 1 else ''}, {rate.library} library"
        yield f"matrices, {dtype}", f"{format_scaled(rate.rate, 'FLOP/s')} ({how}, edge {rate.size})"
    copies = [rate for rate in device.operation_rates if rate.kind == "copy" and rate.variant == "default"]
    if copies:
        largest = max(rate.size for rate in copies)  # smaller ones show the caches' speed
        best = max((rate for rate in copies if rate.size == largest), key=lambda rate: rate.bandwidth)
        yield "memory bandwidth", f"{format_scaled(best.bandwidth, 'B/s')} ({best.threads} threads)"
    yield "source", device.source


def _best_rates(rates: Sequence[MatrixRate]) -> Iterator[tuple[str, MatrixRate]]:
    """The fastest exact rate of each data type."""
    exact = sorted((rate for rate in rates if rate.exact), key=lambda rate: rate.dtype)
    for dtype, group in groupby(exact, key=lambda rate: rate.dtype):
        yield dtype, max(group, key=lambda rate: rate.rate)


def _facts(rows: Sequence[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(Text(name, style="dim"), Text(value))
    return table


def _matrices(device: Device) -> Table:
    """The best rate over all sizes: a row per data type and library, a column per way of using the cores."""
    ways = _ways(device.matrix_rates)
    table = _table("Matrix products: rate of each of PROCESSES × THREADS", "data type", "library", ways=ways)
    best: dict[tuple[str, str], dict[Way, MatrixRate]] = {}
    for rate in device.matrix_rates:
        row = best.setdefault((rate.dtype, rate.library), {})
        way = rate.processes, rate.threads
        row[way] = max(row.get(way, rate), rate, key=lambda one: one.rate)
    for names, row in sorted(best.items()):
        table.add_row(*names, *(_matrix_text(row.get(way)) for way in ways))
    return table


def _matrix_text(rate: MatrixRate | None) -> str:
    if rate is None:
        return "–"
    return format_scaled(rate.rate, "FLOP/s") + ("" if rate.exact else ", inexact")


def _operations(device: Device) -> Table:
    """The rate at the largest size, where no cache helps, and what a call costs whatever its size."""
    ways = _ways(device.operation_rates)
    table = _table("Other operations: rate of each of PROCESSES × THREADS", "kind", "variant", ways=ways)
    table.add_column("each call", justify="right")
    largest: dict[tuple[str, str], dict[Way, OperationRate]] = {}
    for rate in device.operation_rates:
        row = largest.setdefault((rate.kind, rate.variant), {})
        way = rate.processes, rate.threads
        row[way] = max(row.get(way, rate), rate, key=lambda one: one.size)
    for names, row in sorted(largest.items()):
        call = row[min(row)].overhead
        cells = (_operation_text(row.get(way)) for way in ways)
        table.add_row(*names, *cells, format_seconds(call) if call else "–")
    return table


def _operation_text(rate: OperationRate | None) -> str:
    if rate is None or not rate.bandwidth:
        return "–"
    return format_scaled(rate.bandwidth, "FLOP/s" if rate.kind in COUNTED_IN_FLOP else "B/s")


def _ways(rates: Sequence[MatrixRate] | Sequence[OperationRate]) -> list[Way]:
    """The ways of using the cores that were measured: processes and threads of each."""
    return sorted({(rate.processes, rate.threads) for rate in rates})


def _table(title: str, *names: str, ways: Sequence[Way]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name)
    for processes, threads in ways:
        table.add_column(f"{processes} × {threads} thread{'s' if threads > 1 else ''}", justify="right")
    return table


def _collectives(rates: Sequence[tuple[str, CollectiveRate]]) -> Table:
    table = Table(title="Collectives", title_justify="left")
    for column in ("collective", "within", "transport"):
        table.add_column(column)
    for column in ("workers", "latency", "bandwidth"):
        table.add_column(column, justify="right")
    for tier, rate in rates:
        table.add_row(
            rate.collective, tier, rate.transport, str(rate.group),
            format_seconds(rate.latency), format_scaled(rate.bandwidth, "B/s"),
        )  # fmt: skip
    return table


def _speed(link: Link) -> str:
    return f"{format_scaled(link.bandwidth, 'B/s')} after {format_seconds(link.latency)}"
