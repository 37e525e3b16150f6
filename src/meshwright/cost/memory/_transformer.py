r"""What each pipeline worker of a transformer holds, from its dimensions.

With $T$ tokens of a micro-batch, width $h$, $e$ bytes a number and tensor degree $t$, a layer saves:
norms' inputs and outputs, $4 T h e$ (divided by $t$ where the sequence is split); queries, keys, values and attention's
output; the feed-forward network's inner tensors, four with a gate and two without; masks of dropout, one byte each;
and where attention is not fused, its scores. Source: Korthikanti et al. 2022, equation 2: $34 s b h + 5 a s^2 b$ with
dropout and scores, $e = 2$ and an inner width of $4 h$.
"""

from collections.abc import Sequence

from meshwright.cost.memory._arrangement import Arrangement
from meshwright.cost.memory._content import StageContent
from meshwright.cost.memory._conventions import Conventions
from meshwright.graph import Transformer

# Operations on scores among those of a layer: two products, softmax and dropout of eleven or twelve.
SCORES_SHARE = 1 / 3


def transformer_contents(
    model: Transformer, arrangement: Arrangement, conventions: Conventions
) -> tuple[StageContent, ...]:
    """What every pipeline worker holds, in the order of execution."""
    layers = arrangement.layers or stage_layers(model, arrangement.mesh.pp, conventions)
    whole = saved_by_layer(model, arrangement, conventions)
    if arrangement.computed_again:
        kept = [_kept_partly(model, arrangement, conventions, share) for share in arrangement.computed_again]
    else:
        kept = [_kept(model, arrangement, conventions)] * len(layers)
    return tuple(
        _content(model, arrangement, stage, count, whole=whole, kept=kept[stage]) for stage, count in enumerate(layers)
    )


def stage_layers(model: Transformer, stages: int, conventions: Conventions) -> tuple[int, ...]:
    """Layers of each pipeline worker; with `balanced`, a stage ends where its share of all products is reached."""
    if conventions.placement == "even" or stages == 1:
        whole, rest = divmod(model.layers, stages)
        return tuple(whole + (1 if stage < rest else 0) for stage in range(stages))
    layer = model.attention_parameters + model.expert_parameters
    total = layer * model.layers + model.hidden * model.vocab
    counts, stage, done = [0] * stages, 0, 0
    for _ in range(model.layers):
        counts[stage] += 1
        done += layer
        if stage < stages - 1 and done * stages >= total * (stage + 1):
            stage += 1
    return tuple(counts)


def saved_by_layer(model: Transformer, arrangement: Arrangement, conventions: Conventions) -> float:
    """Activations that one layer leaves for the backward of one micro-batch, nothing computed again (B)."""
    return _between(model, arrangement) + _inside(model, arrangement, conventions) + _scores(model, arrangement)


def _content(
    model: Transformer, arrangement: Arrangement, stage: int, layers: float, *, whole: float, kept: float
) -> StageContent:
    """One pipeline worker's part.

    Args:
        whole: activations of a layer with nothing computed again (B).
        kept: what a layer keeps of them (B).
    """
    mesh, last = arrangement.mesh, stage == arrangement.mesh.pp - 1
    tokens = _tokens(model, arrangement)
    under_way = arrangement.under_way(stage)
    embedded = tokens * model.hidden * arrangement.element / _outer(arrangement) if stage == 0 else 0.0
    exchanged = tokens * model.hidden * arrangement.element if mesh.tp > 1 else 0.0
    return StageContent(
        elements=_elements(model, arrangement, stage, layers),
        experts=layers * _experts(model, arrangement),
        unit=max(model.layer_parameters, model.hidden * model.vocab) / mesh.tp,
        saved=layers * kept + embedded,
        under_way=under_way,
        again=whole,
        logits=tokens * model.vocab / mesh.tp if last else 0.0,
        exchanged=exchanged,
        exchanges=layers * under_way if mesh.tp > 1 else 0.0,
    )


def _tokens(model: Transformer, arrangement: Arrangement) -> float:
    return arrangement.micro_batch * model.sequence / arrangement.mesh.cp


def _outer(arrangement: Arrangement) -> int:
    """By how much what lies between tensor-parallel regions is divided."""
    return arrangement.mesh.tp if arrangement.sequence == "split" else 1


def _elements(model: Transformer, arrangement: Arrangement, stage: int, layers: float) -> float:
    mesh = arrangement.mesh
    dense = model.layer_parameters - model.expert_parameters * model.experts
    elements = layers * (dense / mesh.tp + _experts(model, arrangement))
    first, last = stage == 0, stage == mesh.pp - 1
    if first:
        elements += model.embedding_parameters / mesh.tp
    if last and not (model.tied and first):
        elements += model.hidden * model.vocab / mesh.tp
    return elements


def _experts(model: Transformer, arrangement: Arrangement) -> float:
    """Elements of a layer's experts on one worker."""
    return model.expert_parameters * model.experts / (arrangement.mesh.tp * arrangement.mesh.ep)


def _between(model: Transformer, arrangement: Arrangement) -> float:
    masks = 2 if arrangement.dropout == "on" else 0
    return _tokens(model, arrangement) * model.hidden * (4 * arrangement.element + masks) / _outer(arrangement)


def _inside(model: Transformer, arrangement: Arrangement, conventions: Conventions) -> float:
    active = max(1, model.active_experts) if model.experts else 1
    heads = model.head_width * (2 * model.heads + 2 * model.kv_heads)
    inner = model.ffn * (4 if model.gated else 2) * active
    dispatched = 2 * model.hidden * active if model.experts else 0
    copied = conventions.copied * model.head_width * model.heads if arrangement.micro_batch > 1 else 0.0
    statistics = 4 * model.heads if arrangement.attention == "fused" else 0
    width = (heads + inner + copied) * arrangement.element + statistics
    return _tokens(model, arrangement) * (width / arrangement.mesh.tp + dispatched * arrangement.element)


def _scores(model: Transformer, arrangement: Arrangement) -> float:
    if arrangement.attention == "fused":
        return 0.0
    each = arrangement.element + (1 + arrangement.element if arrangement.dropout == "on" else 0)
    return _tokens(model, arrangement) * model.sequence * model.heads * each / arrangement.mesh.tp


def _kept_partly(model: Transformer, arrangement: Arrangement, conventions: Conventions, share: float) -> float:
    """What a layer keeps (B) where some of its operations are computed again: those on scores, holding most, first."""
    scores = _scores(model, arrangement)
    rest = _between(model, arrangement) + _inside(model, arrangement, conventions)
    first = SCORES_SHARE if scores else 0.0
    return scores * max(0.0, 1 - share / SCORES_SHARE) + rest * (1 - max(0.0, share - first) / (1 - first))


def _kept(model: Transformer, arrangement: Arrangement, conventions: Conventions) -> float:
    """What a layer keeps under the arrangement's recomputation (B)."""
    tokens, size = _tokens(model, arrangement), arrangement.element
    if arrangement.recomputation == "full":
        return tokens * model.hidden * size / _outer(arrangement)
    if arrangement.recomputation == "selective" and conventions.selective == "alternate":
        # Every second matrix product, attention's output, and the layer's input.
        products: Sequence[int] = (
            model.heads * model.head_width, model.kv_heads * model.head_width, model.ffn, model.hidden,
        )  # fmt: skip
        inside = (sum(products) + model.heads * model.head_width) / arrangement.mesh.tp
        return tokens * size * (inside + model.hidden / _outer(arrangement))
    if arrangement.recomputation == "selective":
        return _between(model, arrangement) + _inside(model, arrangement, conventions)
    return saved_by_layer(model, arrangement, conventions)
