"""A character-level GPT on real text: the sources of Python's standard library, or any files that are given."""

import argparse
import sysconfig
from pathlib import Path

import torch
from torch import nn

import meshwright as mw

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("files", nargs="*", type=Path, default=sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")))
parser.add_argument("--steps", type=int, default=500)
args = parser.parse_args()
text = "".join(file.read_text(encoding="utf-8", errors="ignore") for file in args.files)
characters, tokens = torch.frombuffer(bytearray(text, "utf-32-le"), dtype=torch.int32).unique(return_inverse=True)
train, held_out = tokens.tensor_split([len(tokens) * 9 // 10])
batch, length, width, heads = 32, 128, 128, 4


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.token, self.position = nn.Embedding(len(characters), width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block() for _ in range(4)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(characters)))

    def forward(self, tokens):
        return self.head(self.blocks(self.token(tokens) + self.position.weight))


torch.manual_seed(0)
model = GPT()
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
loss = lambda model, text: nn.functional.cross_entropy(model(text[:, :-1]).mT, text[:, 1:])  # noqa: E731
step = mw.parallel(model, optimizer, loss)
for number in range(1, args.steps + 1):
    value = step(train[torch.randint(len(train) - length, (batch, 1)) + torch.arange(length + 1)])
    if step.is_main and number % 100 == 0:
        print(f"step {number}: loss {value:.3f}")
with torch.no_grad():
    value = loss(step.model, held_out.unfold(0, length + 1, length + 1)[:128])
if step.is_main:
    print(f"held-out loss {value:.3f} after {args.steps} steps on {len(train):,} characters")
