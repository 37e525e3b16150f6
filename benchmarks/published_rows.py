"""Rows of published measurements: their configuration columns as a model, a cluster and a strategy.

Only configuration columns are read here; `measured_step_time` is the one function that reads what was measured, and it
is for fitting and comparing.
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from meshwright.cost import Sharding
from meshwright.errors import UsageError
from meshwright.graph import Transformer
from published_cells import count, is_blank, is_true, number, text, whole
from published_hardware import device_name, own_network

Recomputation = Literal["none", "selective", "full"]

NEEDED = (
    "row_id", "source", "n_layers", "d_model", "n_heads", "n_kv_heads", "d_ff", "ffn_type", "vocab", "tied_embeddings",
    "n_experts", "topk", "seq_len", "hardware", "n_devices", "devices_per_node", "intra_bw_GBps",
    "inter_bw_Gbps_per_device", "precision", "framework", "global_batch", "micro_batch", "tp", "sequence_parallel",
    "pp", "vpp", "pp_schedule", "cp", "ep", "etp", "dp", "sharding", "activation_checkpointing", "compile",
    "attention_impl", "notes",
)  # fmt: skip

# Without these columns no row can be expressed; others are taken as blank.
ESSENTIAL = ("row_id", "n_layers", "d_model", "seq_len", "hardware", "n_devices", "global_batch")

# Of a row that is meant: stages are gone through one by one.
_MOST_LAYERS, _MOST_DEVICES = 10_000, 10**6


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedRow:
    """The configuration of one published run.

    Args:
        row_id: its name in the file.
        source: who published it.
        model: dimensions.
        device: the catalogue's short name.
        num_devices: all of them.
        devices_per_host: of one host.
        link: inside a host, one way (B/s); 0: not stated.
        network: between hosts, one way and per device (B/s); 0: not stated.
        dtype: data type of the matrix products.
        precision: as published.
        framework: as published.
        global_batch: sequences per optimizer step.
        micro_batch: sequences per model replica and forward.
        virtual: stages per pipeline worker.
        tp: tensor degree.
        sequence_parallel: whether norms between split regions are split along the sequence.
        pp: pipeline degree.
        cp: context degree.
        ep: expert degree, inside `dp`.
        etp: tensor degree of experts; 0: `tp`.
        dp: data degree.
        sharding: what the data axis keeps in shards.
        recomputation: of activations.
        states_recomputation: whether the row says so; if not, `recomputation` is `none`.
        compiled: whether a compiler fuses the step.
        fused_attention: whether attention keeps no scores.
        notes: as published.
    """

    row_id: str
    source: str
    model: Transformer
    device: str
    num_devices: int
    devices_per_host: int
    link: float
    network: float
    dtype: str
    precision: str
    framework: str
    global_batch: int
    micro_batch: float
    virtual: int
    tp: int
    sequence_parallel: bool
    pp: int
    cp: int
    ep: int
    etp: int = 0
    dp: int
    sharding: Sharding
    recomputation: Recomputation
    states_recomputation: bool
    compiled: bool
    fused_attention: bool
    notes: str

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a data rank in a step."""
        return max(1, round(self.global_batch / (self.dp * self.micro_batch)))


def read_rows(path: Path) -> list[Mapping[str, str]]:
    """The lines of a file of measurements; configuration columns that it lacks are blank.

    Raises:
        UsageError: no such file, or it lacks columns that no row can be expressed without.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.DictReader(file, restkey="beyond", restval="")
            rows = list(reader)
            columns = tuple(reader.fieldnames or ())
    except (OSError, csv.Error) as error:
        raise UsageError(
            f"{path} cannot be read as measurements", cause=str(error), alternatives=["a CSV file with a header"]
        ) from None
    missing = [name for name in ESSENTIAL if name not in columns]
    if missing:
        raise UsageError(
            f"{path} lacks {len(missing)} of the {len(ESSENTIAL)} columns without which no run can be expressed",
            cause=f"missing: {', '.join(missing)}",
            alternatives=["a blank cell says that a value is not known; these columns have to be there"],
        )
    blank = dict.fromkeys(NEEDED, "")
    return [blank | row for row in rows]


def configuration(row: Mapping[str, str]) -> PublishedRow:
    """What a row ran, from its configuration columns alone.

    Raises:
        UsageError: a needed value is blank, not a number, or names hardware that the catalogue does not have; or more
            devices are asked for than there are.
    """
    tp, pp, cp = (count(row, name, default=1) for name in ("tp", "pp", "cp"))
    num_devices, dp = _devices(row, tp * pp * cp)
    micro_batch, global_batch = _batches(row, dp)
    device, recomputation = device_name(text(row, "hardware")), text(row, "activation_checkpointing")
    framework = _framework(text(row, "framework"), device)
    return PublishedRow(
        row_id=row["row_id"],
        source=text(row, "source"),
        model=_model(row),
        device=device,
        num_devices=num_devices,
        devices_per_host=min(count(row, "devices_per_node", default=8), num_devices),
        link=number(row, "intra_bw_GBps", default=0.0) * 1e9,
        network=number(row, "inter_bw_Gbps_per_device", default=0.0) * 1e9 / 8 or own_network(text(row, "hardware")),
        dtype=_dtype(text(row, "precision")),
        precision=text(row, "precision"),
        framework=framework,
        global_batch=global_batch,
        micro_batch=micro_batch,
        virtual=count(row, "vpp", default=1),
        tp=tp,
        sequence_parallel=tp > 1 and is_true(row, "sequence_parallel", default=_splits_sequence(framework)),
        pp=pp,
        cp=cp,
        ep=min(count(row, "ep", default=1), dp * cp * tp),
        etp=min(count(row, "etp", default=tp), tp),
        dp=dp,
        sharding=_sharding(text(row, "sharding"), framework),
        recomputation=_recomputation(recomputation),
        states_recomputation=bool(recomputation),
        compiled=is_true(row, "compile", default=False),
        fused_attention=_fused_attention(text(row, "attention_impl"), framework),
        notes=text(row, "notes"),
    )


def _devices(row: Mapping[str, str], replica: int) -> tuple[int, int]:
    """Devices, and data degree.

    Args:
        replica: devices of one replica of the model.
    """
    stated = count(row, "dp", default=1) if not is_blank(row, "dp") else 0
    num_devices = count(row, "n_devices", default=replica * stated if stated else None)
    if num_devices > _MOST_DEVICES:
        raise UsageError(f"row {row['row_id']}: no run has {num_devices} devices")
    if replica > num_devices:
        raise UsageError(f"row {row['row_id']}: one replica takes {replica} devices", cause=f"n_devices: {num_devices}")
    return num_devices, min(stated or num_devices // replica, num_devices)


def _batches(row: Mapping[str, str], dp: int) -> tuple[float, int]:
    """Micro-batch, as stated or from the number of micro-batches, otherwise a data rank's whole share; global batch."""
    rounds = max(1, count(row, "grad_accum", default=1))
    stated = number(row, "micro_batch", default=0.0)
    sequences = count(row, "global_batch", default=max(1, round(stated * dp * rounds)) if stated else None)
    return stated or sequences / (dp * rounds), sequences


def measured_step_time(row: Mapping[str, str]) -> float | None:
    """The measured step (s); None where the row failed or does not say."""
    if row.get("status") != "ok":
        return None
    if row["step_time_s"]:
        return float(row["step_time_s"])
    if row["tokens_per_s_per_device"] and row["global_batch"] and row["seq_len"]:
        tokens = float(row["global_batch"]) * float(row["seq_len"])
        return tokens / (float(row["tokens_per_s_per_device"]) * float(row["n_devices"]))
    return None


def _model(row: Mapping[str, str]) -> Transformer:
    hidden = count(row, "d_model")
    heads = count(row, "n_heads", default=max(1, hidden // 128))
    kind = text(row, "ffn_type").lower()
    classic = kind in ("gelu", "relu", "")
    experts = whole(row, "n_experts", default=0)
    if count(row, "n_layers") > _MOST_LAYERS:
        raise UsageError(f"row {row['row_id']}: no model has {row['n_layers']} layers")
    if heads > hidden:
        raise UsageError(f"row {row['row_id']}: {heads} heads share a width of {hidden}")
    return Transformer(
        layers=count(row, "n_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=min(heads, count(row, "n_kv_heads", default=heads)),
        ffn=count(row, "d_ff", default=4 * hidden),
        vocab=count(row, "vocab", default=51200),
        sequence=count(row, "seq_len"),
        gated=kind in ("swiglu", "geglu", "reglu", "glu"),
        tied=is_true(row, "tied_embeddings", default=classic),
        learned_positions=classic,
        biases=classic,
        experts=experts if experts > 1 else 0,
        active_experts=count(row, "topk", default=1),
    )


def _dtype(precision: str) -> str:
    text = precision.lower()
    if text.startswith("fp32"):
        return "tfloat32" if "tf32" in text else "float32"
    for part, dtype in (("fp8", "float8_e4m3fn"), ("float8", "float8_e4m3fn"), ("fp4", "float8_e4m3fn"),
                        ("int8", "float8_e4m3fn"), ("bf16", "bfloat16"), ("bfloat16", "bfloat16"),
                        ("tf32", "tfloat32"), ("fp16", "float16"), ("float16", "float16"),
                        ("mixed", "float16")):  # fmt: skip
        if part in text:
            return dtype
    return "bfloat16"


def _sharding(text: str, framework: str) -> Sharding:
    lowered = text.lower()
    if not lowered:
        # Megatron-Core's and MaxText's own defaults, where a table does not say.
        return "optimizer" if re.search("nemo|megatron-core", framework.lower()) else "none"
    for part, level in (("zero3", "parameters"), ("zero-3", "parameters"), ("full_shard", "parameters"),
                        ("fsdp", "parameters"), ("zero2", "gradients"), ("zero-2", "gradients"),
                        ("grad_op", "gradients"), ("zero", "optimizer"), ("distributed", "optimizer")):  # fmt: skip
        if part in lowered:
            return level  # type: ignore[return-value]
    return "none"


def _recomputation(text: str) -> Recomputation:
    lowered = text.lower()
    if lowered.startswith("full") or "nothing" in lowered:
        return "full"
    return "selective" if lowered.startswith(("selective", "partial", "layer", "minimal")) else "none"


def _framework(name: str, device: str) -> str:
    """A framework's name; Megatron-LM on devices that came after Megatron-Core is built on it."""
    lowered = name.lower()
    newer = re.match(r"h[12]\d|gh|gb|b[23]|mi3", device)
    if newer and "megatron-lm" in lowered and not re.search("core|deepspeed", lowered):
        return f"{name} (Megatron-Core)"
    return name


def _splits_sequence(framework: str) -> bool:
    return re.search("nemo|megatron-core|torchtitan|nanotron", framework.lower()) is not None


def _fused_attention(text: str, framework: str) -> bool:
    """Megatron-LM computed scores as matrices until it took over Megatron-Core."""
    if text:
        return "unfused" not in text.lower()
    lowered = framework.lower()
    return not (re.search("megatron-lm|megatron-deepspeed|aceso|alpa", lowered) and "core" not in lowered)
