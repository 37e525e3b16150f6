"""Peak of a pipeline worker: the worst of three moments, item by item.

In the loss of the last forward, all micro-batches under way have left their activations and the logits are there in
several copies. At the end of the first backward, one micro-batch's activations are gone and its gradients are there in
full. In the update, all activations are gone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf

from meshwright.cost._prediction import MemoryBreakdown, Moment
from meshwright.cost._strategy import Sharding
from meshwright.cost.memory._arrangement import Arrangement
from meshwright.cost.memory._content import StageContent
from meshwright.cost.memory._conventions import Backlog, Conventions


@dataclass(frozen=True, kw_only=True, slots=True)
class StageMemory:
    """One pipeline worker's peak.

    Args:
        stage: its place in the pipeline.
        moment: when it is highest.
        memory: what it is made of then.
    """

    stage: int
    moment: Moment
    memory: MemoryBreakdown


def stage_memories(
    contents: Sequence[StageContent], arrangement: Arrangement, conventions: Conventions
) -> tuple[StageMemory, ...]:
    """Every pipeline worker's peak."""
    return tuple(stage_memory(content, stage, arrangement, conventions) for stage, content in enumerate(contents))


def stage_memory(content: StageContent, stage: int, arrangement: Arrangement, conventions: Conventions) -> StageMemory:
    """One pipeline worker's peak and when it comes."""
    moments: tuple[Moment, ...] = ("loss", "backward", "update")
    held = [_held(content, moment, arrangement, conventions) for moment in moments]
    worst = max(range(len(moments)), key=lambda index: held[index].peak)
    return StageMemory(stage=stage, moment=moments[worst], memory=held[worst])


def waiting_share(backlog: Backlog, arrangement: Arrangement) -> float:
    """Which share of a backlog is waiting at the worst moment."""
    if arrangement.lead == -inf:
        return 0.0
    stages = arrangement.mesh.pp
    value = backlog.offset
    if stages == 1:
        value += backlog.single
    if stages == 2:
        value += backlog.pair + backlog.lead * arrangement.lead
    return 1 / (1 + exp(-max(-30.0, min(30.0, value))))


def _held(content: StageContent, moment: Moment, arrangement: Arrangement, conventions: Conventions) -> MemoryBreakdown:
    elements, own = content.elements, conventions
    gathered = own.gathered * content.unit * own.whole if arrangement.shards("parameters") > 1 else 0.0
    parameters = _kept(content, arrangement, "parameters") * own.parameter + gathered
    gradients = _kept(content, arrangement, "gradients") * own.gradient
    optimizer = _kept(content, arrangement, "optimizer") * own.optimizer
    optimizer = optimizer if arrangement.optimizer_on == "device" else 0.0
    saved = {"loss": content.under_way, "backward": max(0.0, content.under_way - 1), "update": 0.0}[moment]
    activations = content.saved * saved
    transient = content.logits * own.logits_kept if arrangement.micro_batches > 1 else 0.0
    if moment == "loss":
        transient += content.logits * own.logits
    elif moment == "backward":
        gradients += elements * own.produced * own.produced_share
        transient += content.again * own.layer
    else:
        optimizer += elements * own.updated / arrangement.shards("optimizer")
    return MemoryBreakdown(
        context=round(own.fixed),
        parameters=round(parameters),
        gradients=round(gradients),
        optimizer=round(optimizer),
        activations=round(activations),
        transient=round(transient),
        communication=round(_communication(content, moment, arrangement, own)),
        allocator=round(activations * (own.activations - 1) + (parameters + gradients + optimizer) * (own.state - 1)),
    )


def _kept(content: StageContent, arrangement: Arrangement, level: Sharding) -> float:
    """Elements of which a worker keeps its part of what is in shards from a level on."""
    common = content.elements - content.experts
    return common / arrangement.shards(level) + content.experts / arrangement.expert_shards(level)


def _communication(content: StageContent, moment: Moment, arrangement: Arrangement, conventions: Conventions) -> float:
    """Buckets of replicas, whole tensors between tensor-parallel regions, and those that wait for other streams (B)."""
    replicas = arrangement.data_degree > 1 and arrangement.sharding in ("none", "optimizer")
    size = content.elements * conventions.bucket if replicas else 0.0
    if moment == "update" or not content.exchanged:
        return size
    backlog = conventions.backlog
    share = waiting_share(backlog, arrangement)
    waiting = backlog.per_exchange * content.exchanges + backlog.constant
    return size + content.exchanged * (conventions.exchanged + waiting * share)
