"""Peak memory of published runs and whether they fit, from their configuration columns alone."""

import re
from dataclasses import dataclass, replace
from functools import cache

from meshwright.cost import Mesh
from meshwright.cost.accelerator import Setup
from meshwright.cost.memory import (
    Arrangement,
    Backlog,
    Conventions,
    StageMemory,
    conventions,
    failure_probability,
    fullest,
    needed_peak,
    stage_layers,
    stage_memories,
    stages_on,
    transformer_contents,
)
from meshwright.hardware import catalog
from published_rows import PublishedRow
from published_setup import computed_again, lead_of, setup_of, stated_layers, trains_nothing

# Frameworks by what their rows say, tried in order.
_FRAMEWORKS = tuple(
    (re.compile(pattern, re.IGNORECASE), name)
    for pattern, name in (
        (r"nanotron", "nanotron"), (r"titan", "torchtitan"), (r"fsdp|composer|foundry|accelerate", "fsdp"),
        (r"sailor", "sailor"), (r"v1\.1\.5 3d", "megatron-3d"), (r"deepspeed", "deepspeed"),
        (r"aceso|mist|alpa", "aceso"),
        (r"maxtext|jax|xla|pax", "jax"), (r"nemo|megatron-core|mcore", "megatron-core"), (r"megatron", "megatron"),
    )
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedMemory:
    """What a row is predicted to need.

    Args:
        seen: what its source reports of it (B).
        asked: what the fullest worker asks for, whether there is room or not (B).
        stages: every pipeline worker's peak.
        share: of the device's memory that the fullest worker cannot do without.
        failure: probability that it does not run (0 to 1).
        reason: why it cannot run at all, whatever the memory; empty where it can.
    """

    seen: int
    asked: int
    stages: tuple[StageMemory, ...]
    share: float
    failure: float
    reason: str = ""

    @property
    def fits(self) -> bool:
        """Whether it is more likely to run than not."""
        return not self.reason and self.failure < 0.5


def published_memory(row: PublishedRow, *, own: Conventions | None = None) -> PublishedMemory:
    """Peak memory of a row.

    Args:
        own: the framework's conventions; None: the fitted ones.
    """
    own = own or row_conventions(row)
    capacity = memory_of(row.device)
    arrangement = row_arrangement(row, own)
    contents = transformer_contents(row.model, arrangement, own)
    if not row.states_recomputation:
        # A run that is published ran: it computed again as much as it had to.
        for choice in ("selective", "full"):
            if needed_peak(contents, arrangement, own) > own.limit * capacity:
                arrangement = replace(arrangement, recomputation=choice)
                contents = transformer_contents(row.model, arrangement, own)
    stages = stages_on(capacity, contents, arrangement, own)
    needed = needed_peak(contents, arrangement, own)
    return PublishedMemory(
        seen=(stages[0] if own.seen == "first" else fullest(stages)).memory.peak,
        asked=fullest(stage_memories(contents, arrangement, own)).memory.peak,
        stages=stages,
        share=needed / capacity,
        failure=failure_probability(needed, capacity, own),
        reason=impossible(row, own),
    )


def row_conventions(row: PublishedRow) -> Conventions:
    """The conventions of a row's framework, with its precision's data types."""
    name = next((name for pattern, name in _FRAMEWORKS if pattern.search(row.framework)), "megatron-core")
    return conventions(name + "-fp16" if name == "deepspeed" and row.precision.startswith("fp16") else name)


def filled_setup(row: PublishedRow) -> Setup:
    """How a row was trained, with what it asks of a device's memory."""
    return replace(setup_of(row), fullness=published_memory(row).asked / memory_of(row.device))


def row_arrangement(row: PublishedRow, own: Conventions) -> Arrangement:
    """How a row lays its model out."""
    shared = row.sharding != "none"
    return Arrangement(
        mesh=Mesh(
            pp=row.pp,
            dp_replicate=1 if shared else row.dp,
            dp_shard=row.dp if shared else 1,
            cp=row.cp,
            ep=row.ep,
            tp=row.tp,
        ),
        sharding=row.sharding,
        sequence="split" if row.sequence_parallel else "whole",
        recomputation=row.recomputation,
        computed_again=computed_again(row),
        micro_batch=row.micro_batch,
        micro_batches=row.micro_batches,
        schedule="interleaved" if row.virtual > 1 else "1f1b",
        virtual=row.virtual,
        layers=stated_layers(row) or stage_layers(row.model, row.pp, own),
        element=4.0 if row.dtype in ("float32", "tfloat32") else 2.0,
        attention="fused" if row.fused_attention else "scores",
        dropout=own.dropout,
        lead=lead_of(row) if own.backlog != Backlog() else 0.0,
    )


def impossible(row: PublishedRow, own: Conventions) -> str:
    """Why a pipeline cannot be driven like this; empty where it can."""
    if row.pp > 1 and own.placement == "balanced":
        if row.micro_batches < row.pp - 1:
            return f"{row.micro_batches} micro-batches for a pipeline of {row.pp}: its schedule needs {row.pp - 1}"
        if _idle_stages(row):
            return f"{row.model.layers} layers and an output layer leave the last of {row.pp} stages without anything"
    if row.pp > 1 and trains_nothing(row):
        return "a stage without parameters: its optimizer has nothing to flatten"
    return ""


@cache
def memory_of(device: str) -> int:
    """Of one device (B)."""
    return round(catalog().devices[device].memory.value)


def _idle_stages(row: PublishedRow) -> bool:
    """Whether a stage gets nothing at all when blocks are placed by computing cost.

    After the layers come a norm, the output layer, a conversion and the loss; a stage ends with the block at which its
    share of all products is reached.
    """
    model = row.model
    layer, head = model.attention_parameters + model.expert_parameters, model.hidden * model.vocab
    costs = [0, *([layer] * model.layers), 0, head, 0, 0]
    total, done, stage, used = sum(costs), 0, 0, set()
    for cost in costs:
        used.add(stage)
        done += cost
        if stage < row.pp - 1 and done * row.pp >= total * (stage + 1):
            stage += 1
    return len(used) < row.pp
