"""A published row's model as a user would write it, on the meta device, and the graph that is captured of it."""

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meshwright.errors import UsageError
from meshwright.graph import Graph, Transformer, derived_splits
from meshwright.graph.capture import capture

# What graphs are captured at: quantities are linear in the number of sequences.
_SEQUENCES = 4


class Attention(nn.Module):
    """Causal attention with fewer key and value heads than query heads; fused, or with its scores kept."""

    def __init__(self, model: Transformer, *, fused: bool) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width = model.heads, model.kv_heads, model.head_width
        bias = model.biases
        self.query = nn.Linear(model.hidden, model.heads * self.width, bias=bias)
        self.key = nn.Linear(model.hidden, model.kv_heads * self.width, bias=bias)
        self.value = nn.Linear(model.hidden, model.kv_heads * self.width, bias=bias)
        self.output = nn.Linear(model.heads * self.width, model.hidden, bias=bias)
        self.rotary, self.fused = not model.learned_positions, fused
        if not fused:
            self.register_buffer("future", torch.ones(model.sequence, model.sequence, dtype=torch.bool).triu(1))

    def forward(self, x_btd: Tensor) -> Tensor:
        batch, time, _ = x_btd.shape
        q = self.query(x_btd).view(batch, time, self.heads, self.width).transpose(1, 2)
        k = self.key(x_btd).view(batch, time, self.kv_heads, self.width).transpose(1, 2)
        v = self.value(x_btd).view(batch, time, self.kv_heads, self.width).transpose(1, 2)
        if self.rotary:
            q, k = _rotated(q), _rotated(k)
        if not self.fused:
            scores_bhtt = (q @ k.transpose(-1, -2)) * self.width**-0.5
            kept_bhtt = F.dropout(scores_bhtt.masked_fill(self.future[:time, :time], -1e4).softmax(-1), 0.1)
            return self.output((kept_bhtt @ v).transpose(1, 2).reshape(batch, time, self.heads * self.width))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads)
        return self.output(mixed.transpose(1, 2).reshape(batch, time, self.heads * self.width))


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

    def __init__(self, model: Transformer, *, fused: bool) -> None:
        super().__init__()
        norm = nn.LayerNorm if model.biases else nn.RMSNorm
        self.attention_norm, self.ffn_norm = norm(model.hidden), norm(model.hidden)
        self.attention, self.ffn = Attention(model, fused=fused), FeedForward(model)

    def forward(self, x_btd: Tensor) -> Tensor:
        x_btd = x_btd + self.attention(self.attention_norm(x_btd))
        return x_btd + self.ffn(self.ffn_norm(x_btd))


class Decoder(nn.Module):
    """Embedding, equal layers, output."""

    def __init__(self, model: Transformer, *, fused: bool) -> None:
        super().__init__()
        self.token = nn.Embedding(model.vocab, model.hidden)
        self.position = nn.Embedding(model.sequence, model.hidden) if model.learned_positions else None
        self.layers = nn.ModuleList(Layer(model, fused=fused) for _ in range(model.layers))
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
def captured(model: Transformer, dtype: str, *, fused: bool) -> Graph:
    """The graph of one step of a dense model.

    Args:
        model: dimensions; an output layer that shares the embedding's matrix has one of its own here.
        dtype: of parameters and activations.
        fused: whether attention keeps no scores.

    Raises:
        UsageError: it is a mixture of experts.
    """
    if model.experts:
        raise UsageError("a mixture of experts is written here by nobody", cause=f"{model.experts} experts a layer")
    with torch.device("meta"):
        decoder = Decoder(model, fused=fused).to(getattr(torch, dtype))
        tokens_bt = torch.zeros(_SEQUENCES, model.sequence, dtype=torch.int64)
    optimizer = torch.optim.AdamW(decoder.parameters(), fused=False)
    graph = capture(decoder, optimizer, _loss, tokens_bt)
    return replace(graph, splits=derived_splits(graph))
