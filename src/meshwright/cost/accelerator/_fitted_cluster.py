"""A cluster of the catalogue with what was fitted put into its figures, for pricing any captured graph.

The catalogue knows peaks and best rates; steps reach less. A device's matrix rates become a curve over sizes, its
memory's bandwidth and its links' the share that was seen. What was measured on the machine itself stays as it is, and
so does what was fitted before.
"""

from dataclasses import replace

from meshwright.cost.accelerator._calibration import Calibration, calibration
from meshwright.cost.accelerator._kernels import kernels
from meshwright.cost.accelerator._machine import machine
from meshwright.cost.accelerator._setup import MatrixType
from meshwright.hardware import Cluster, Device, Host, Link, MatrixRate

# Edges of the matrices at which a curve is given.
_EDGES = (128, 256, 512, 1024, 2048, 4096, 8192)
_MATRIX_TYPES: dict[str, MatrixType] = {
    "bfloat16": "half", "float16": "half", "float8_e4m3fn": "float8", "float8_e5m2": "float8", "tfloat32": "single",
}  # fmt: skip
_CATALOGUE = "catalogue:"
# Links below this are PCIe (B/s).
_FASTEST_PCIE = 70e9


def fitted_cluster(cluster: Cluster, *, fitted: Calibration | None = None) -> Cluster:
    """The cluster with fitted rates where its figures come from the catalogue.

    Args:
        fitted: instead of the package's own calibration.
    """
    if not any(_is_catalogued(host) for host in cluster.hosts):
        return cluster
    known = fitted or calibration()
    return replace(
        cluster,
        hosts=tuple(
            replace(host, device=_device(host.device, known)) if _is_catalogued(host) else host
            for host in cluster.hosts
        ),
        links=tuple(link if link.collectives else _link(link, known) for link in cluster.links),
    )


def _is_catalogued(host: Host) -> bool:
    return host.device.kind != "cpu" and host.device.source.startswith(_CATALOGUE)


def _device(device: Device, known: Calibration) -> Device:
    where = machine(device, link=0.0, network=0.0, latency=0.0, domain=1, num_devices=1)
    curves = []
    for rate in device.matrix_rates:
        if rate.dtype not in _MATRIX_TYPES:
            curves.append(rate)
            continue
        times = kernels(where, _MATRIX_TYPES[rate.dtype], known)
        curves += [
            MatrixRate(
                dtype=rate.dtype, threads=rate.threads, size=edge, rate=2 * edge**3 / times.matrix(edge, edge, edge)
            )
            for edge in _EDGES
        ]
    moving = tuple(
        replace(row, bandwidth=row.bandwidth * known.kernels.memory) if row.kind == "copy" else row
        for row in device.operation_rates
    )
    source = f"fitted to published runs; {device.source}"
    return replace(device, matrix_rates=tuple(curves), operation_rates=moving, source=source)


def _link(link: Link, known: Calibration) -> Link:
    shares = known.network
    if link.tier in ("host", "rack"):
        share = shares.link if link.bandwidth > _FASTEST_PCIE else shares.pcie
        return replace(link, bandwidth=link.bandwidth * share)
    return replace(link, bandwidth=link.bandwidth * shares.network, latency=link.latency * shares.network_hop)
