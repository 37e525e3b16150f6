"""A convolutional network with batch normalization on scikit-learn's digits; each worker loads its share only."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import meshwright as mw

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--batch", type=int, default=128)
args = parser.parse_args()

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
images = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
labels = torch.tensor(labels)
train = TensorDataset(images[:1500], labels[:1500])
loader = DataLoader(train, batch_size=args.batch, shuffle=True)

model = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
    nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 10),
)  # fmt: skip
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
step = mw.parallel(model, optimizer, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]))

for epoch in range(args.epochs):
    for batch in step.batches(loader):
        value = step(batch)
    if step.is_main:
        print(f"epoch {epoch}: loss {value:.4f}")

step.model.eval()
with torch.no_grad():
    right = (step.model(images[1500:]).argmax(1) == labels[1500:]).float().mean()
if step.is_main:
    print(f"held-out accuracy {right:.3f}")
