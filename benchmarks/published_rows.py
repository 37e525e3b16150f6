"""Rows of published measurements: their configuration columns as a model, a cluster and a strategy.

Only configuration columns are read here; `measured_step_time` is the one function that reads what was measured, and it
is for fitting and comparing.
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from meshwright.cost import Sharding
from meshwright.errors import UsageError
from meshwright.graph import Transformer
from meshwright.hardware import Catalog, catalog

Recomputation = Literal["none", "selective", "full"]

NEEDED = (
    "row_id", "source", "n_layers", "d_model", "n_heads", "n_kv_heads", "d_ff", "ffn_type", "vocab", "tied_embeddings",
    "n_experts", "topk", "seq_len", "hardware", "n_devices", "devices_per_node", "intra_bw_GBps",
    "inter_bw_Gbps_per_device", "precision", "framework", "global_batch", "micro_batch", "tp", "sequence_parallel",
    "pp", "vpp", "pp_schedule", "cp", "ep", "dp", "sharding", "activation_checkpointing", "compile", "attention_impl",
    "notes",
)  # fmt: skip

# Names that publications give a device, tried in order, and the catalogue's.
_HARDWARE = tuple(
    (re.compile(pattern, re.IGNORECASE), name)
    for pattern, name in (
        (r"gb300", "gb300"), (r"gb200", "gb200"), (r"b300", "b300"), (r"b200", "b200"), (r"gh200", "gh200"),
        (r"h200", "h200"), (r"h[18]00.*pcie", "h100-pcie"), (r"h100.*(hbm2e|500\s*w)", "h100-500w"),
        (r"h[18]00", "h100"), (r"a[18]00.*pcie", "a100-pcie"), (r"a[18]00.*40", "a100-40"), (r"a[18]00", "a100"),
        (r"l40s", "l40s"), (r"l40", "l40"), (r"\bl4\b", "l4"), (r"\ba10", "a10g"), (r"v100.*16", "v100-16"),
        (r"v100", "v100"), (r"\bt4\b", "t4"), (r"p100", "p100"), (r"4090", "rtx4090"), (r"3090", "rtx3090"),
        (r"5090", "rtx5090"), (r"mi355", "mi355x"), (r"mi350", "mi350x"), (r"mi325", "mi325x"), (r"mi300", "mi300x"),
        (r"mi250x", "mi250x"), (r"mi250", "mi250"), (r"gaudi\s*-?3", "gaudi3"), (r"gaudi", "gaudi2"),
        (r"trainium\s*-?3|trn3", "trainium3"), (r"trainium\s*-?2|trn2", "trainium2"), (r"trainium|trn1", "trainium1"),
        (r"v7x|ironwood", "tpu-v7x"), (r"v6e|trillium", "tpu-v6e"), (r"v5p", "tpu-v5p"), (r"v5e|v5litepod", "tpu-v5e"),
        (r"tpu.*v4", "tpu-v4"),
    )
)  # fmt: skip


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
    """The lines of a file of measurements.

    Raises:
        UsageError: no such file, or it lacks configuration columns.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            columns = tuple(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{path} cannot be read as measurements", cause=str(error), alternatives=["a CSV file with a header"]
        ) from None
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        raise UsageError(
            f"{path} lacks {len(missing)} of the {len(NEEDED)} columns that say how a row was run",
            cause=f"missing: {', '.join(missing)}",
            alternatives=["a blank cell says that a value is not known; the column has to be there"],
        )
    return rows


def configuration(row: Mapping[str, str]) -> PublishedRow:
    """What a row ran, from its configuration columns alone.

    Raises:
        UsageError: a needed value is blank, not a number, or names hardware that the catalogue does not have.
    """
    tp, pp, cp = (_integer(row, name, default=1) for name in ("tp", "pp", "cp"))
    num_devices = _integer(row, "n_devices")
    dp = _integer(row, "dp", default=max(1, num_devices // (tp * pp * cp)))
    ffn_type = row["ffn_type"].lower()
    return PublishedRow(
        row_id=row["row_id"],
        source=row["source"],
        model=_model(row, gated=ffn_type in ("swiglu", "geglu", "reglu", "glu")),
        device=device_name(row["hardware"]),
        num_devices=num_devices,
        devices_per_host=min(_integer(row, "devices_per_node", default=8), num_devices),
        link=_number(row, "intra_bw_GBps", default=0.0) * 1e9,
        network=_number(row, "inter_bw_Gbps_per_device", default=0.0) * 1e9 / 8,
        dtype=_dtype(row["precision"]),
        precision=row["precision"],
        framework=row["framework"],
        global_batch=_integer(row, "global_batch"),
        micro_batch=_micro_batch(row, dp),
        virtual=_integer(row, "vpp", default=1),
        tp=tp,
        sequence_parallel=tp > 1 and _is_true(row["sequence_parallel"], default=_splits_sequence(row["framework"])),
        pp=pp,
        cp=cp,
        ep=_integer(row, "ep", default=1),
        dp=dp,
        sharding=_sharding(row["sharding"], row["framework"]),
        recomputation=_recomputation(row["activation_checkpointing"]),
        states_recomputation=bool(row["activation_checkpointing"]),
        compiled=_is_true(row["compile"], default=False),
        fused_attention=_fused_attention(row["attention_impl"], row["framework"]),
        notes=row["notes"],
    )


def _micro_batch(row: Mapping[str, str], dp: int) -> float:
    """As stated, or from the stated number of micro-batches; otherwise a data rank's whole share at once."""
    if row["micro_batch"]:
        return _number(row, "micro_batch")
    rounds = float(row.get("grad_accum") or 1)
    return _number(row, "global_batch") / (dp * max(1.0, rounds))


def measured_step_time(row: Mapping[str, str]) -> float | None:
    """The measured step (s); None where the row failed or does not say."""
    if row["status"] != "ok":
        return None
    if row["step_time_s"]:
        return float(row["step_time_s"])
    if row["tokens_per_s_per_device"] and row["global_batch"] and row["seq_len"]:
        tokens = float(row["global_batch"]) * float(row["seq_len"])
        return tokens / (float(row["tokens_per_s_per_device"]) * float(row["n_devices"]))
    return None


def device_name(hardware: str) -> str:
    """The catalogue's short name of a published one.

    Raises:
        UsageError: the catalogue has no such device.
    """
    known = _catalog().devices
    for pattern, name in _HARDWARE:
        if pattern.search(hardware) and name in known:
            return name
    raise UsageError(f"no device {hardware!r} in the catalogue", alternatives=[f"known: {', '.join(known)}"])


@cache
def _catalog() -> Catalog:
    return catalog()


def _model(row: Mapping[str, str], *, gated: bool) -> Transformer:
    hidden, heads = _integer(row, "d_model"), _integer(row, "n_heads")
    classic = row["ffn_type"].lower() in ("gelu", "relu", "")
    return Transformer(
        layers=_integer(row, "n_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=_integer(row, "n_kv_heads", default=heads),
        ffn=_integer(row, "d_ff", default=4 * hidden),
        vocab=_integer(row, "vocab", default=51200),
        sequence=_integer(row, "seq_len"),
        gated=gated,
        tied=_is_true(row["tied_embeddings"], default=classic),
        learned_positions=classic,
        biases=classic,
        experts=_integer(row, "n_experts", default=0),
        active_experts=_integer(row, "topk", default=1),
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


def _splits_sequence(framework: str) -> bool:
    return re.search("nemo|megatron-core|torchtitan|nanotron", framework.lower()) is not None


def _fused_attention(text: str, framework: str) -> bool:
    """Megatron-LM computed scores as matrices until it took over Megatron-Core."""
    if text:
        return "unfused" not in text.lower()
    lowered = framework.lower()
    return not (re.search("megatron-lm|megatron-deepspeed|aceso|alpa", lowered) and "core" not in lowered)


def _is_true(text: str, *, default: bool) -> bool:
    return text.lower() in ("true", "1", "yes") if text else default


def _number(row: Mapping[str, str], name: str, *, default: float | None = None) -> float:
    text = row[name]
    if not text:
        if default is None:
            raise UsageError(f"row {row['row_id']}: {name} is blank", cause="the model cannot do without it")
        return default
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"row {row['row_id']}: {name} is {text!r}, which is not a number") from None
    if not 0 <= value < float("inf"):
        raise UsageError(f"row {row['row_id']}: {name} is {text}, which is not a size")
    return value


def _integer(row: Mapping[str, str], name: str, *, default: int | None = None) -> int:
    value = _number(row, name, default=default)
    if value != int(value):
        raise UsageError(f"row {row['row_id']}: {name} is {value:g}, which is not a whole number")
    return int(value)
