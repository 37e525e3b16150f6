"""Small models as people write them, each with its loss and a batch, and graphs in numbers that can be compared."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meshwright.graph import Graph
from meshwright.graph.capture import capture, capture_with


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What `capture` is given."""

    model: nn.Module
    loss: Callable[[nn.Module, Any], Any]
    batch: Any


class Attention(nn.Module):
    """Causal self-attention of nanoGPT."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for part in self.qkv(x).split(width, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.project(y.transpose(1, 2).contiguous().view(batch, length, width))


class Layer(nn.Module):
    """A transformer layer that knows its number, as those of `transformers` do."""

    def __init__(self, width: int, heads: int, number: int) -> None:
        super().__init__()
        self.number = number
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = Attention(width, heads)
        self.wide = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.narrow(F.gelu(self.wide(self.norms[1](x))))


class GPT(nn.Module):
    """A small GPT with tied embeddings."""

    def __init__(self, *, vocabulary: int = 50, length: int = 16, width: int = 32, layers: int = 4) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(length, width)
        self.layers = nn.ModuleList([Layer(width, 4, number) for number in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class Sequences(nn.Module):
    """An LSTM over embedded tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, 16)
        self.recurrent = nn.LSTM(16, 24, num_layers=2, batch_first=True)
        self.head = nn.Linear(24, 50)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.recurrent(self.tokens(tokens))[0])


def classification(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross entropy of (inputs, labels)."""
    return F.cross_entropy(model(batch[0]), batch[1])


def language(model: nn.Module, tokens: Tensor) -> Tensor:
    """Cross entropy of the next token."""
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def mlp(examples: int = 8) -> Job:
    """10 → 32 → 4."""
    return Job(
        model=nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4)),
        loss=classification,
        batch=(torch.randn(examples, 10), torch.randint(0, 4, (examples,))),
    )


def cnn(examples: int = 8) -> Job:
    """Convolution, batch norm, pooling, classifier."""
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16, 10),
    )  # fmt: skip
    return Job(
        model=model,
        loss=classification,
        batch=(torch.randn(examples, 1, 8, 8), torch.randint(0, 10, (examples,))),
    )


def gpt(examples: int = 8, layers: int = 4) -> Job:
    """A small GPT on random tokens."""
    return Job(model=GPT(layers=layers), loss=language, batch=torch.randint(0, 50, (examples, 17)))


def lstm(examples: int = 8) -> Job:
    """An LSTM on random tokens."""
    return Job(model=Sequences(), loss=language, batch=torch.randint(0, 50, (examples, 13)))


ALL: dict[str, Callable[..., Job]] = {"mlp": mlp, "cnn": cnn, "gpt": gpt, "lstm": lstm}


def totals(graph: Graph) -> dict[str, float]:
    """Everything that a price is made of, repeats counted."""
    size = graph.batch_size
    return {
        "operations": sum(op.repeats for op in graph.operations),
        "flops": sum(op.flops.at(size) * op.repeats for op in graph.operations),
        "backward flops": sum(op.flops.at(size) * op.repeats for op in graph.operations if op.phase == "backward"),
        "read": sum(op.bytes_read.at(size) * op.repeats for op in graph.operations),
        "written": sum(op.bytes_written.at(size) * op.repeats for op in graph.operations),
        "activations": sum(a.size.at(size) * a.repeats for a in graph.activations),
        "transient": graph.transient.at(size),
        "peak": graph.peak.at(size),
        "parameters": sum(torch.Size(p.shape).numel() * p.repeats for p in graph.parameters),
        "other peak": graph.peak.at(3 * size),
    }


def both(job: Job) -> tuple[Graph, Graph]:
    """Captured with repeated blocks once, and every block by itself."""
    optimizer = torch.optim.SGD(job.model.parameters())
    once = capture(job.model, optimizer, job.loss, job.batch)
    return once, capture_with(job.model, optimizer, job.loss, job.batch, groups=())
