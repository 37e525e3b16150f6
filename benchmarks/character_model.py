"""A small GPT over the characters of real text: what benchmarks of exchange and of memory train."""

import sysconfig
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHARACTERS = 128


class Block(nn.Module):
    """Attention and a network of two layers, each on normalized input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class CharacterModel(nn.Module):
    """Characters in, logits of the next ones out."""

    def __init__(self, *, width: int, depth: int, heads: int, length: int) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(CHARACTERS, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, CHARACTERS))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of each next character."""
        return self.head(self.blocks(self.token(tokens) + self.position.weight))


def loss(model: nn.Module, text: Tensor) -> Tensor:
    """Mean over the batch."""
    return F.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())


def texts(*, length: int, held_out: int) -> tuple[Tensor, Tensor]:
    """The sources of Python's standard library as bytes below 128: to train on, and held out.

    Args:
        length: characters that a sequence predicts.
        held_out: sequences.
    """
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = b"".join(file.read_bytes() for file in files)
    tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8).long() % CHARACTERS
    train, rest = tokens.tensor_split([len(tokens) * 9 // 10])
    return train, rest.unfold(0, length + 1, 977)[:held_out]
