"""An LSTM that learns to write documentation, from the docstrings of Python's standard library; gradients clipped."""

import argparse
import ast
import sysconfig
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import meshwright as mw

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--batch", type=int, default=32)
parser.add_argument("--length", type=int, default=64)
args = parser.parse_args()


def docstrings(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield ast.get_docstring(node) or ""


class CharacterLSTM(nn.Module):
    def __init__(self, width=256):
        super().__init__()
        self.token = nn.Embedding(128, width // 2)
        self.lstm = nn.LSTM(width // 2, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, 128)

    def forward(self, tokens):
        return self.head(self.lstm(self.token(tokens))[0])


files = sorted(Path(sysconfig.get_path("stdlib")).glob("[a-e]*.py"))
text = "\n".join(docstring for file in files for docstring in docstrings(file))
data = torch.tensor(list(text.encode("ascii", errors="ignore")))

torch.manual_seed(0)
model = CharacterLSTM()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
step = mw.parallel(
    model, optimizer, lambda model, batch: F.cross_entropy(model(batch["in"]).mT, batch["out"]), clip=1.0
)
for number in range(1, args.steps + 1):
    windows = data[torch.randint(len(data) - args.length, (args.batch, 1)) + torch.arange(args.length + 1)]
    value = step({"in": windows[:, :-1], "out": windows[:, 1:]})
    if step.is_main and number % 100 == 0:
        print(f"step {number}: loss {value:.3f}")
if step.is_main:
    print(f"loss {value:.3f} after {args.steps} steps on {len(data):,} characters")
