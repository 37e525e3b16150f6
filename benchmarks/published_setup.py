"""A published row as the step model takes it, without its memory: a `Setup` and a `Machine`."""

import re
from functools import cache
from itertools import pairwise
from math import inf, log2

from meshwright.cost.accelerator import (
    Collectives,
    Machine,
    MatrixType,
    Setup,
    calibration,
    kernels,
    layer_time,
    layers_wait,
    machine,
    messages_of,
    stalls,
)
from meshwright.hardware import CatalogEntry, Device, Topology
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
# A device's network card where neither the row nor the catalogue says, by its 16-bit peak (FLOP/s): hosts of the fast
# ones have one of 400 or 200 Gb/s for each device, others less than 100 Gb/s.
_USUAL_NETWORKS = ((600e12, 50e9), (250e12, 25e9), (0.0, 12.5e9))
_USUAL_LINK = 31e9
# Of an empty message over AWS's EFA (s): all-gathers of network_calibration over 16 to 512 devices, per hop. nanotron's
# published runs are on it, as the notes of those that did not fail say.
EFA_LATENCY = 38e-6
_STAGE_LAYERS = re.compile(r"layers per stage \[([\d, ]+)\] \(incl\. embedding and head")
_STAGE_BOUNDS = re.compile(r"stage boundaries \[([\d, ]+)\] \(\d+ pseudo-layers")
_STAGE_OPERATIONS = re.compile(r"ops per stage \[([\d, ]+)\]")
_AGAIN = re.compile(r"recomputed-op fraction per stage \[([\d., ]+)\]")
_WHOLE_SUMS = re.compile(r"fp32_allreduce=true", re.IGNORECASE)
# AMP's copy of Megatron has timers around its all-reduces (megatron/mpu/mappings.py), and those synchronise.
_TIMED = re.compile(r"v1\.1\.5 3d", re.IGNORECASE)
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
        layers=stated_layers(row),
        cp=row.cp,
        ep=row.ep,
        etp=row.etp,
        dp=row.dp,
        sharding=row.sharding,
        recomputation=row.recomputation,
        computed_again=computed_again(row),
        matrix_type="float8_rows" if by_row else _MATRIX_TYPES[row.dtype],
        compiled=row.compiled,
        fused_attention=row.fused_attention,
        framework=framework_class(row.framework),
        gradient_bytes=_gradient_bytes(row),
        timed=_TIMED.search(row.framework) is not None,
    )


def computed_again(row: PublishedRow) -> tuple[float, ...]:
    """Share of the operations of each pipeline stage that are done again, by the notes; empty where they do not say."""
    match = _AGAIN.search(row.notes)
    shares = tuple(float(text) for text in match[1].split(",")) if match else ()
    return shares if len(shares) == row.pp else ()


def stated_layers(row: PublishedRow) -> tuple[float, ...]:
    """Layers of each stage by the notes: counted, or in proportion to the operations where stages cut layers."""
    operations = _STAGE_OPERATIONS.search(row.notes)
    if operations is not None:
        parts = [int(text) for text in operations[1].split(",")]
        return tuple(row.model.layers * part / sum(parts) for part in parts) if len(parts) == row.pp else ()
    match = _STAGE_LAYERS.search(row.notes)
    counts = [int(text) for text in match[1].split(",")] if match else _between(row)
    if len(counts) != row.pp:
        return ()
    ends = sum(counts) - row.model.layers
    # Before the blocks are an embedding and, in longer lists, a transposition; behind them all that is left.
    before = min(2, (ends + 1) // 2)
    counts[0] -= before
    counts[-1] -= ends - before
    return tuple(counts) if sum(counts) == row.model.layers and min(counts) >= 0 else ()


def trains_nothing(row: PublishedRow) -> bool:
    """Whether a stated pipeline stage holds no parameters: transpositions or a cast alone.

    Of Megatron's list for DeepSpeed's pipeline: an embedding and a transposition before the blocks; a transposition, a
    norm, the output layer and a cast behind them.
    """
    match = _STAGE_BOUNDS.search(row.notes)
    bounds = [int(text) for text in match[1].split(",")] if match else []
    layers = row.model.layers
    if not bounds or bounds[-1] != layers + 6:
        return False
    holding = {0, *range(2, layers + 2), layers + 3, layers + 4}
    return any(holding.isdisjoint(range(begin, end)) for begin, end in pairwise(bounds))


def _between(row: PublishedRow) -> list[int]:
    """Layers between stated boundaries, those before the first block and behind the last one counted."""
    match = _STAGE_BOUNDS.search(row.notes)
    bounds = [int(text) for text in match[1].split(",")] if match else []
    return [after - before for before, after in pairwise(bounds)]


def _gradient_bytes(row: PublishedRow) -> float:
    """Of an element of a gradient on the network: Megatron sums half-precision gradients as they are, unless told."""
    if _WHOLE_SUMS.search(row.notes):
        return 4.0
    halves = row.dtype == "float16" and framework_class(row.framework) in ("megatron", "deepspeed")
    return 2.0 if halves else 0.0


def lead_of(row: PublishedRow) -> float:
    """Doublings by which the device takes longer for a layer than its host; minus infinity where the host waits."""
    setup, where, fitted = setup_of(row), machine_of_row(row), calibration()
    habits = fitted.frameworks.get(setup.framework) or fitted.frameworks["other"]
    messages = messages_of(setup, where)
    if stalls(habits.stalls, messages) and layers_wait(messages):
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
    network = row.network or (entry.network.value / per_host if entry.network else _usual_network(entry))
    link = row.link or (entry.link.value if entry.link else _USUAL_LINK)
    domain = max(row.devices_per_host, entry.link_reach)
    return link, network, _latency(row), min(domain, row.num_devices)


def _usual_network(entry: CatalogEntry) -> BytesPerSecond:
    peak = max((entry.peaks[dtype].value for dtype in ("bfloat16", "float16") if dtype in entry.peaks), default=0.0)
    joined = peak if entry.link_name and not entry.link_name.startswith("PCIe") else 0.0
    return next(network for least, network in _USUAL_NETWORKS if joined >= least)


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
