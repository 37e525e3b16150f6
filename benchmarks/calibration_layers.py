"""Profiles of single layers as points of the fit: what hardware does that hardly any published run was on.

`layer_points`: Megatron-DeepSpeed's in 32 bits, forward and backward, by model, device, micro-batch and tensor degree;
TF32 where the device has it, plain 32-bit products elsewhere; collectives of tensor degrees included.
`operation_points`: Megatron's in 16 bits, added up from operations that were timed one by one.
"""

import csv
import gzip
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

from calibration_points import TIMER, Point
from meshwright.cost.accelerator import Calibration, Collectives, Machine, Setup, kernels, layer_time, machine, together
from meshwright.errors import UsageError
from meshwright.graph import Transformer
from meshwright.hardware import catalog
from meshwright.hardware._catalog import device_of
from meshwright.units import Seconds
from published_hardware import device_name

# Weight of all layers beside one source of runs; every device has an equal part of it.
_WEIGHT = 0.5
_FRAMEWORK = "deepspeed"
_NAMES = {"gh-96": "gh200", "rtx-3090": "rtx3090", "rtx-2080": "rtx2080ti", "titan-rtx": "rtx2080ti"}
# Vocabularies do not matter to a layer. OPT-30 on A100 and the 8B model ran at rates below TF32's: in which precision
# is not said.
_MODELS = ("OPT-350", "GPT-Neo-2.7")
_LAYERS = re.compile(r"transformer layer\(s\) (\d+)-(\d+)")
_PCIE = 15.75e9
# Widths and heads of the models whose operations were timed.
_WIDTHS = {
    "gpt-1_3B": (2048, 32), "gpt-2_6B": (2560, 32), "gpt-6_7B": (4096, 32), "gpt-13B": (5120, 40),
    "gpt-20B": (6144, 64), "gpt-22B": (6144, 64), "gpt-40B": (8192, 64),
}  # fmt: skip
# Of a product, one of the backward's two is in the time.
_PRODUCTS = ("enc-attention-qkv", "enc-attention-dense", "enc-MLP-GEMM-1", "enc-MLP-GEMM-2")
_OPERATIONS = (
    *_PRODUCTS, "enc-1st-layernorm", "enc-attention-score", "enc-attention-softmax", "enc-attention-dropout",
    "enc-attention-context", "enc-post-attention-dropout", "enc-2nd-layernorm", "enc-MLP-gelu", "enc-post-MLP-dropout",
)  # fmt: skip


def layer_points(path: Path) -> list[Point]:
    """Every layer whose label belongs to its model."""
    with path.open(newline="", encoding="utf-8") as file:
        found = [(row, _setup(row)) for row in csv.DictReader(file) if _is_layer(row)]
    sizes = Counter(row["hardware"] for row, _ in found)
    return [
        _timed(row["hardware"], setup, float(row["fwd_s"]) + float(row["bwd_s"]),
               weight=_WEIGHT / len(sizes) / sizes[row["hardware"]])
        for row, setup in found
    ]  # fmt: skip


def operation_points(path: Path) -> list[Point]:
    """Every layer of whose operations all were timed, on one worker."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["op"] in _OPERATIONS and row["tp"] == "1"]
    layers: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row["algo"] == "0" and row["fwd_us"] and row["bwd_us"] and row["model"] in _WIDTHS and row["seq_len"]:
            key = (row["hardware"], row["model"], row["seq_len"], row["micro_batch"])
            layers[key][row["op"]] = float(row["fwd_us"]) + float(row["bwd_us"]) * (2 if row["op"] in _PRODUCTS else 1)
    whole = {key: sum(times.values()) * 1e-6 for key, times in layers.items() if len(times) == len(_OPERATIONS)}
    sizes = Counter(hardware for hardware, *_ in whole)
    timers = (2 * len(_OPERATIONS) + len(_PRODUCTS)) * TIMER
    return [
        _timed(hardware, _half_setup(model, int(sequence), float(examples)), seconds - timers,
               weight=_WEIGHT / len(sizes) / sizes[hardware])
        for (hardware, model, sequence, examples), seconds in whole.items() if seconds > 2 * timers
    ]  # fmt: skip


def _half_setup(name: str, sequence: int, examples: float) -> Setup:
    hidden, heads = _WIDTHS[name]
    model = Transformer(
        layers=1, hidden=hidden, heads=heads, kv_heads=heads, ffn=4 * hidden, vocab=51200, sequence=sequence
    )
    return Setup(model=model, micro_batch=examples, micro_batches=1, fused_attention=False, framework="megatron")


def _is_layer(row: Mapping[str, str]) -> bool:
    label = _LAYERS.match(row["layer"])
    known = row["model"] in _MODELS and row["seq_len"] and row["fwd_s"] and row["bwd_s"]
    # the first layer is timed apart; a profile that ends at another layer than its model is another model's
    return bool(label and known and int(label[2]) == int(row["n_layers"]) and int(label[2]) > int(label[1]))


def _setup(row: Mapping[str, str]) -> Setup:
    hidden, heads = int(row["d_model"]), int(row["n_heads"])
    model = Transformer(
        layers=int(row["n_layers"]), hidden=hidden, heads=heads, kv_heads=heads, ffn=4 * hidden, vocab=50272,
        sequence=int(row["seq_len"]),
    )  # fmt: skip
    return Setup(
        model=model, micro_batch=float(row["micro_batch"]), micro_batches=1, tp=int(row["tp"]), matrix_type="single",
        fused_attention=False, framework=_FRAMEWORK,
    )  # fmt: skip


def _timed(hardware: str, setup: Setup, measured: Seconds, *, weight: float) -> Point:
    where = _machine(hardware, setup.tp)

    def predict(fitted: Calibration) -> float:
        habits = fitted.frameworks[setup.framework]
        times = kernels(where, setup.matrix_type, fitted)
        layer = layer_time(setup, times, Collectives(where, fitted.network), habits, fitted)
        return float(together(layer.device, layer.launch))

    return Point(
        source="layers", model=f"layers: {hardware}", size=setup.tp, framework=setup.framework, device=where.device,
        weight=weight, measured=measured, predict=predict,
    )  # fmt: skip


def _machine(hardware: str, workers: int) -> Machine:
    try:
        name = _NAMES.get(hardware.lower()) or device_name(hardware)
    except UsageError as error:
        raise UsageError(f"layer profiles are of a device that is not in the catalogue: {hardware}") from error
    entry = catalog().devices[name]
    return machine(
        device_of(catalog(), entry), link=entry.link.value if entry.link else _PCIE, network=0.0, latency=0.0,
        domain=workers, num_devices=workers,
    )  # fmt: skip
