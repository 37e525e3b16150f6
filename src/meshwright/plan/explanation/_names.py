"""Layouts in a line, and what their axes are called."""

from collections.abc import Iterator

from meshwright.cost.hybrid import USUAL_ORDER, HybridPricer, Layout
from meshwright.plan._axis_order import worded

AXES = {"tp": "tensor", "cp": "context", "ep": "expert", "pp": "pipeline", "dp_shard": "shards",
        "dp_replicate": "replicas", "data": "data", "islands": "islands"}  # fmt: skip


def summary(layout: Layout, devices: str = "") -> str:
    """The choices of a layout in a line."""
    mesh = layout.mesh
    parts = [f"{mesh.num_workers} × {devices or 'device'}"]
    if mesh.dp_replicate > 1:
        parts.append(f"data {mesh.dp_replicate}")
    if mesh.dp_shard > 1:
        unequal = f" as {':'.join(map(str, layout.shards))}" if layout.shards else ""
        parts.append(f"{layout.sharding} sharded {mesh.dp_shard}{unequal}")
    if mesh.tp > 1:
        parts.append(f"tensor {mesh.tp}" + (" with sequence" if layout.sequence == "split" else ""))
    if mesh.cp > 1:
        parts.append(f"context {mesh.cp} ({layout.attention.replace('_', '-')})")
    if mesh.ep > 1:
        parts.append(f"expert {mesh.ep}")
    if mesh.pp > 1:
        chunks = len(layout.bounds) // mesh.pp
        parts.append(f"pipeline {mesh.pp} ({layout.schedule}{f' × {chunks}' if chunks > 1 else ''})")
    if layout.order != USUAL_ORDER:
        parts.append(f"from far to near: {worded(mesh, layout.order)}")
    if layout.micro_batches > 1:
        parts.append(f"{layout.micro_batches} micro-batches")
    if layout.recomputed:
        parts.append(f"{len(layout.recomputed)} blocks recomputed")
    if layout.offload != "none":
        parts.append(f"{layout.offload} offloaded")
    return ", ".join((*parts, *_departures(layout)))


def device_names(pricer: HybridPricer, layout: Layout) -> str:
    """Names of the devices that a layout stands on."""
    kinds = dict.fromkeys(kind for replica in layout.replicas for kind in replica.kinds)
    return " and ".join(pricer.hosts[kind].device.name for kind in kinds)


def _departures(layout: Layout) -> Iterator[str]:
    """What is not as the script has it."""
    if layout.precision.compute != "as_written":
        yield f"{layout.precision.compute} compute"
    if layout.precision.reduction != "as_written":
        yield f"{layout.precision.reduction} reduction"
    if layout.exchange.updates is not None:
        yield f"{layout.exchange.updates.summary} by {layout.islands} islands"
    if layout.exchange.compression is not None:
        yield layout.exchange.compression.summary
    if layout.kernels.compiled:
        yield "compiled"
