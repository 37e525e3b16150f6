"""A multilayer perceptron on a table, in which rows weigh differently: the loss is a total with its weight."""

import argparse

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import meshwright as mw

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--batch", type=int, default=128)
parser.add_argument("--width", type=int, default=512)
args = parser.parse_args()

torch.manual_seed(0)
table, labels = load_breast_cancer(return_X_y=True)
table, labels = torch.tensor(table, dtype=torch.float32), torch.tensor(labels)
order = torch.randperm(len(table))
table, labels = table[order], labels[order]
table = (table - table[:450].mean(0)) / table[:450].std(0)
weights = (len(labels[:450]) / (2 * labels[:450].bincount()))[labels]
loader = DataLoader(TensorDataset(table[:450], labels[:450], weights[:450]), batch_size=args.batch, shuffle=True)

model = nn.Sequential(
    nn.Linear(table.shape[1], args.width), nn.ReLU(), nn.Linear(args.width, args.width), nn.ReLU(),
    nn.Linear(args.width, args.width), nn.ReLU(), nn.Linear(args.width, 2),
)  # fmt: skip
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)


def loss(model, batch):
    rows, labels, weights = batch
    losses = F.cross_entropy(model(rows), labels, reduction="none")
    return (losses * weights).sum(), weights.sum()


step = mw.parallel(model, optimizer, loss)
for epoch in range(args.epochs):
    for batch in step.batches(loader):
        value = step(batch)
    if step.is_main and epoch % 10 == 9:
        print(f"epoch {epoch}: weighted loss {value:.4f}")

with torch.no_grad():
    right = (step.model(table[450:]).argmax(1) == labels[450:]).float().mean()
if step.is_main:
    print(f"held-out accuracy {right:.3f}")
