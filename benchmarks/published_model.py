"""A published row's model as a user would write it, on the meta device, and the graph that is captured of it."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from meshwright.errors import UsageError
from meshwright.graph import Graph, Transformer, derived_splits
from meshwright.graph.capture import capture

# What graphs are captured at: quantities are linear in the number of sequences.
_SEQUENCES = 4
# Probability of frameworks that train with dropout where nothing is said.
_DROPOUT = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Writing:
    """How a script writes its layers.

    Args:
        fused: attention is one operation, which keeps no scores.
        dropout: scores, and what is added to the residual stream, are dropped out.
        again: computed again in the backward: attention's scores; or all but attention and every second product.
    """

    fused: bool = True
    dropout: bool = False
    again: Literal["none", "scores", "alternate"] = "none"


class Attention(nn.Module):
    """Causal attention with fewer key and value heads than query heads; fused, or with its scores kept."""

    def __init__(self, model: Transformer, writing: Writing) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width = model.heads, model.kv_heads, model.head_width
        bias = model.biases
        self.query = nn.Linear(model.hidden, model.heads * self.width, bias=bias)
        self.key = nn.Linear(model.hidden, model.kv_heads * self.width, bias=bias)
        self.value = nn.Linear(model.hidden, model.kv_heads * self.width, bias=bias)
        self.output = nn.Linear(model.heads * self.width, model.hidden, bias=bias)
        self.rotary, self.writing = not model.learned_positions, writing
        self.dropout = nn.Dropout(_DROPOUT if writing.dropout else 0.0)
        if not writing.fused:
            self.register_buffer("future", torch.ones(model.sequence, model.sequence, dtype=torch.bool).triu(1))

    def forward(self, x_btd: Tensor) -> Tensor:
        batch, time, _ = x_btd.shape
        q = self.query(x_btd).view(batch, time, self.heads, self.width).transpose(1, 2)
        k = self.key(x_btd).view(batch, time, self.kv_heads, self.width).transpose(1, 2)
        v = self.value(x_btd).view(batch, time, self.kv_heads, self.width).transpose(1, 2)
        if self.rotary:
            q, k = _rotated(q), _rotated(k)
        if self.writing.again == "scores":
            mixed_bhtd = checkpoint(self._mixed, q, k, v, use_reentrant=False)
        else:
            mixed_bhtd = self._mixed(q, k, v)
        return self.output(mixed_bhtd.transpose(1, 2).reshape(batch, time, self.heads * self.width))

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.writing.fused:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads)
        time = q.shape[2]
        scores_bhtt = (q @ k.transpose(-1, -2)) * self.width**-0.5
        kept_bhtt = scores_bhtt.masked_fill(self.future[:time, :time], -1e4).softmax(-1)
        return self.dropout(kept_bhtt) @ v


def _rotated(x_bhtd: Tensor) -> Tensor:
    """Rotary positions; the angles are no parameters and cost nothing."""
    first, second = x_bhtd.chunk(2, dim=-1)
    angle = torch.ones_like(x_bhtd[:1, :1])
    return x_bhtd * angle + torch.cat((-second, first), dim=-1) * angle


class FeedForward(nn.Module):
    """Two matrices, or three with a gate."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.gate = nn.Linear(model.hidden, model.ffn, bias=False) if model.gated else None
        self.up = nn.Linear(model.hidden, model.ffn, bias=model.biases)
        self.down = nn.Linear(model.ffn, model.hidden, bias=model.biases)

    def forward(self, x_btd: Tensor) -> Tensor:
        up_btf = self.up(x_btd)
        inner_btf = F.gelu(up_btf) if self.gate is None else F.silu(self.gate(x_btd)) * up_btf
        return self.down(inner_btf)


class Layer(nn.Module):
    """Pre-norm attention and feed-forward network."""

    def __init__(self, model: Transformer, writing: Writing) -> None:
        super().__init__()
        norm = nn.LayerNorm if model.biases else nn.RMSNorm
        self.attention_norm, self.ffn_norm = norm(model.hidden), norm(model.hidden)
        self.attention, self.ffn = Attention(model, writing), FeedForward(model)
        self.writing = writing
        self.dropout = nn.Dropout(_DROPOUT if writing.dropout else 0.0)

    def forward(self, x_btd: Tensor) -> Tensor:
        if self.writing.again == "alternate":
            return checkpoint(self._run, x_btd, use_reentrant=False, context_fn=_alternate)
        return self._run(x_btd)

    def _run(self, x_btd: Tensor) -> Tensor:
        x_btd = x_btd + self.dropout(self.attention(self.attention_norm(x_btd)))
        return x_btd + self.dropout(self.ffn(self.ffn_norm(x_btd)))


def _alternate() -> Any:
    """Keeps attention's output and every second matrix product's, beginning with the first."""
    seen = {False: 0, True: 0}

    def policy(context: Any, operation: Any, *_arguments: Any, **_named: Any) -> CheckpointPolicy:
        name = str(operation)
        if "scaled_dot_product" in name:
            return CheckpointPolicy.MUST_SAVE
        if name.startswith(("aten.mm", "aten.addmm", "aten.linear")):
            seen[context.is_recompute] += 1
            if seen[context.is_recompute] % 2:
                return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)


class Decoder(nn.Module):
    """Embedding, equal layers, output."""

    def __init__(self, model: Transformer, writing: Writing) -> None:
        super().__init__()
        self.token = nn.Embedding(model.vocab, model.hidden)
        self.position = nn.Embedding(model.sequence, model.hidden) if model.learned_positions else None
        self.layers = nn.ModuleList(Layer(model, writing) for _ in range(model.layers))
        self.norm = (nn.LayerNorm if model.biases else nn.RMSNorm)(model.hidden)
        self.head = nn.Linear(model.hidden, model.vocab, bias=False)

    def forward(self, tokens_bt: Tensor) -> Tensor:
        x_btd = self.token(tokens_bt)
        if self.position is not None:
            x_btd = x_btd + self.position.weight[: tokens_bt.shape[1]]
        for layer in self.layers:
            x_btd = layer(x_btd)
        return self.head(self.norm(x_btd))


def _loss(model: nn.Module, batch_bt: Tensor) -> Tensor:
    logits_btv = model(batch_bt).float()
    return F.cross_entropy(logits_btv.flatten(0, 1), batch_bt.flatten())


@cache
def captured(model: Transformer, dtype: str, writing: Writing) -> Graph:
    """The graph of one step of a dense model.

    Args:
        model: dimensions; an output layer that shares the embedding's matrix has one of its own here.
        dtype: of parameters and activations.
        writing: of its layers.

    Raises:
        UsageError: it is a mixture of experts.
    """
    if model.experts:
        raise UsageError("a mixture of experts is written here by nobody", cause=f"{model.experts} experts a layer")
    with torch.device("meta"):
        decoder = Decoder(model, writing).to(getattr(torch, dtype))
        tokens_bt = torch.zeros(_SEQUENCES, model.sequence, dtype=torch.int64)
    optimizer = torch.optim.AdamW(decoder.parameters(), fused=False)
    graph = capture(decoder, optimizer, _loss, tokens_bt)
    # Published programs in 32 bits let products run in TF32.
    return replace(graph, splits=derived_splits(graph), traits=tuple(sorted({*graph.traits, "tf32"})))
