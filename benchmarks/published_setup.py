"""A published row as the step model takes it, without its memory: a `Setup` and a `Machine`."""

import re
from functools import cache
from math import inf, log2

from meshwright.cost.accelerator import (
    Collectives,
    Machine,
    MatrixType,
    Setup,
    calibration,
    kernels,
    layer_time,
    machine,
    messages_of,
    stalls,
)
from meshwright.hardware import Device, Topology
from meshwright.hardware._catalog import device_of, link_topology
from meshwright.units import BytesPerSecond, Seconds
from published_hardware import known_devices
from published_rows import PublishedRow

# What a framework calls itself, tried in order, and the class of habits that it has.
_FRAMEWORKS = (
    ("nanotron", "nanotron"), ("torchtitan", "torchtitan"), ("nemo|core|primus|maxtext|jax|xla|pax", "megatron_core"),
    ("deepspeed", "deepspeed"), ("megatron|aceso|alpa", "megatron"),
    ("fsdp|composer|foundry|lightning|accelerate|hugging|transformers|ddp", "fsdp"),
)  # fmt: skip
_MATRIX_TYPES: dict[str, MatrixType] = {
    "float8_e4m3fn": "float8", "bfloat16": "half", "float16": "half", "tfloat32": "single", "float32": "single",
}  # fmt: skip
# A host's network card where neither the row nor the catalogue says: 100 Gb/s.
_USUAL_NETWORK = 12.5e9
_USUAL_LINK = 31e9
# Of an empty message over AWS's EFA (s): all-gathers of network_calibration over 16 to 512 devices, per hop. nanotron's
# published runs are on it, as the notes of those that did not fail say.
EFA_LATENCY = 38e-6
_EFA = re.compile(r"\befa\b|aws", re.IGNORECASE)


def setup_of(row: PublishedRow) -> Setup:
    """How a row was trained."""
    by_row = "row" in row.precision.lower()
    return Setup(
        model=row.model,
        micro_batch=row.micro_batch,
        micro_batches=row.micro_batches,
        tp=row.tp,
        sequence_split=row.sequence_parallel,
        pp=row.pp,
        stages_per_worker=row.virtual,
        cp=row.cp,
        ep=row.ep,
        etp=row.etp,
        dp=row.dp,
        sharding=row.sharding,
        recomputation=row.recomputation,
        matrix_type="float8_rows" if by_row else _MATRIX_TYPES[row.dtype],
        compiled=row.compiled,
        fused_attention=row.fused_attention,
        framework=framework_class(row.framework),
    )


def lead_of(row: PublishedRow) -> float:
    """Doublings by which the device takes longer for a layer than its host; minus infinity where the host waits."""
    setup, where, fitted = setup_of(row), machine_of_row(row), calibration()
    habits = fitted.frameworks.get(setup.framework) or fitted.frameworks["other"]
    if stalls(habits.stalls, messages_of(setup, where)):
        return -inf
    collectives = Collectives(where, fitted.network)
    layer = layer_time(setup, kernels(where, setup.matrix_type, fitted), collectives, habits, fitted)
    return log2(layer.device / layer.host)


def machine_of_row(row: PublishedRow) -> Machine:
    """What a row was trained on; the row's own links, or the catalogue's."""
    link, network, latency, domain = links_of(row)
    return machine(
        device_of_row(row.device), link=link, network=network, domain=domain, num_devices=row.num_devices,
        latency=latency, topology=topology_of_row(row),
    )  # fmt: skip


def links_of(row: PublishedRow) -> tuple[BytesPerSecond, BytesPerSecond, Seconds, int]:
    """Inner link and network of a device, latency between hosts, and how many devices the inner link joins."""
    entry = known_devices().devices[row.device]
    per_host = row.devices_per_host if entry.link_reach else 8
    network = row.network or (entry.network.value / per_host if entry.network else _USUAL_NETWORK)
    link = row.link or (entry.link.value if entry.link else _USUAL_LINK)
    domain = max(row.devices_per_host, entry.link_reach)
    return link, network, _latency(row), min(domain, row.num_devices)


def topology_of_row(row: PublishedRow) -> Topology:
    """How the inner link joins a row's devices."""
    return link_topology(known_devices().devices[row.device])


def framework_class(name: str) -> str:
    """The class of habits of a framework by its published name."""
    lowered = name.lower()
    return next((kind for pattern, kind in _FRAMEWORKS if re.search(pattern, lowered)), "other")


def _latency(row: PublishedRow) -> float:
    if _EFA.search(row.notes) or framework_class(row.framework) == "nanotron":
        return EFA_LATENCY
    return known_devices().latency["network"].value


@cache
def device_of_row(name: str) -> Device:
    """The catalogue's device of this short name."""
    return device_of(known_devices(), known_devices().devices[name])
