"""Small models of all the shapes that a pipeline has to cut, each with a loss and a batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY, WIDTH, LENGTH = 17, 8, 6


class Block(nn.Module):
    """A causal transformer block."""

    def __init__(self, dropout: float = 0.0, crossing: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.Linear(WIDTH, 3 * WIDTH)
        self.output = nn.Linear(WIDTH, WIDTH)
        if crossing:
            self.query = nn.Linear(WIDTH, WIDTH)
            self.memory = nn.Linear(WIDTH, 2 * WIDTH)
        self.second = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, memory: Tensor | None = None) -> Tensor:
        query, key, value = self.attention(self.norm(x)).chunk(3, -1)
        x = x + self.dropout(self.output(F.scaled_dot_product_attention(query, key, value, attn_mask=mask)))
        if memory is not None:
            key, value = self.memory(memory).chunk(2, -1)
            x = x + F.scaled_dot_product_attention(self.query(x), key, value)
        return x + self.dropout(self.down(F.gelu(self.up(self.second(x)))))


class Decoder(nn.Module):
    """GPT-2-like: tied embedding, a mask made of the batch, positions from a buffer."""

    def __init__(self, layers: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(LENGTH, WIDTH)
        self.register_buffer("places", torch.arange(LENGTH))
        self.layers = nn.ModuleList(Block(dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight
        self.unused = nn.Linear(3, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.positions(self.places)
        mask = (self.places[:, None] >= self.places[None, :]) & (tokens != 0)[:, None, :]
        mask = mask | torch.eye(LENGTH, dtype=torch.bool)
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(self.norm(x))


class EncoderDecoder(nn.Module):
    """Every layer of the decoder reads the encoder's output; one embedding serves three times."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.encoder = nn.ModuleList(Block() for _ in range(2))
        self.decoder = nn.ModuleList(Block(crossing=True) for _ in range(3))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory = self.embedding(source)
        everything = torch.ones(LENGTH, LENGTH, dtype=torch.bool)
        for layer in self.encoder:
            memory = layer(memory, everything)
        x = self.embedding(target)
        for layer in self.decoder:
            x = layer(x, everything.tril(), memory)
        return x @ self.embedding.weight.T


class UNet(nn.Module):
    """Skips over several stages; group normalization, and pooling that gives integers on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 6, 3, padding=1)
        self.bottom = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.ReLU())
        self.up = nn.Conv2d(12, 4, 3, padding=1)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        first = torch.relu(self.first(images))
        half, indices = F.max_pool2d(first, 2, return_indices=True)
        second = torch.relu(self.second(half))
        bottom = self.bottom(second)
        up = torch.relu(self.up(torch.cat([second, bottom], 1)))
        whole = F.max_unpool2d(up, indices, 2)
        return self.last(torch.cat([first, whole], 1))


class Normalized(nn.Module):
    """Batch normalization, a frozen layer, a module called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.hidden = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.again = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
        self.last = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.norm(self.hidden(self.frozen(x))))
        return self.last(self.again(x))


@dataclass(frozen=True, kw_only=True)
class PipelineCase:
    """A model, and how it is cut."""

    make: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Any], Any]
    batch: Callable[[int, torch.Generator], Any]
    cuts: tuple[str, ...]


def next_token(model: nn.Module, batch: Tensor) -> Tensor:
    """A mean, with targets shifted by one."""
    return F.cross_entropy(model(batch)[:, :-1].flatten(0, 1), batch[:, 1:].flatten())


def masked(model: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Total and weight, tokens equal to 0 left out."""
    targets = batch[:, 1:].flatten()
    losses = F.cross_entropy(model(batch)[:, :-1].flatten(0, 1), targets, reduction="none")
    counts = targets != 0
    return (losses * counts).sum(), counts.sum()


def translation(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Of one sequence into another."""
    return F.cross_entropy(model(batch["source"], batch["target"]).flatten(0, 1), batch["labels"].flatten())


def classes(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Inputs and their classes."""
    return F.cross_entropy(model(batch[0]), batch[1])


def tokens(size: int, generator: torch.Generator) -> Tensor:
    """Sequences."""
    return torch.randint(0, VOCABULARY, (size, LENGTH), generator=generator)


def pairs(size: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Sequences with their translations."""
    return {name: tokens(size, generator) for name in ("source", "target", "labels")}


def images(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images and their masks."""
    pixels = torch.randn(size, 2, 4, 4, generator=generator, dtype=torch.float64)
    return pixels, torch.randint(0, 3, (size, 4, 4), generator=generator)


def vectors(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Vectors and their classes."""
    inputs = torch.randn(size, WIDTH, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (size,), generator=generator)


def perceptron() -> nn.Module:
    """Layers without anything around them."""
    layers = [part for _ in range(5) for part in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 3))


CASES = {
    "decoder": PipelineCase(
        make=Decoder, loss=next_token, batch=tokens, cuts=("layers.1", "layers.2", "layers.3", "norm")
    ),
    "masked": PipelineCase(make=Decoder, loss=masked, batch=tokens, cuts=("layers.0.second", "layers.1", "layers.3")),
    "translation": PipelineCase(
        make=EncoderDecoder, loss=translation, batch=pairs, cuts=("encoder.1", "decoder.0", "decoder.1", "decoder.2")
    ),
    "unet": PipelineCase(make=UNet, loss=classes, batch=images, cuts=("second", "bottom", "up", "last")),
    "perceptron": PipelineCase(make=perceptron, loss=classes, batch=vectors, cuts=("2", "4", "6", "8", "10")),
    "normalized": PipelineCase(make=Normalized, loss=classes, batch=vectors, cuts=("norm", "again", "again@1", "last")),
    "dropout": PipelineCase(
        make=lambda: Decoder(layers=2, dropout=0.4), loss=next_token, batch=tokens, cuts=("layers.1",)
    ),
}
