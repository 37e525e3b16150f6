"""Models as users write them."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo._zoo_model import EXAMPLES, LENGTH, VOCABULARY, Loss, ZooModel, tokens

WIDTH, HEADS = 32, 4


def _next_token(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    logits = model(batch[0])
    return F.cross_entropy(logits.view(-1, logits.size(-1)), batch[1].view(-1))


def _classification(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def _labels(classes: int = 5) -> Tensor:
    return torch.randint(classes, (EXAMPLES,))


class NanoBlock(nn.Module):
    """Attention written out, with the number of heads as a constant in every view."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.register_buffer("mask", torch.tril(torch.ones(LENGTH, LENGTH)).view(1, 1, LENGTH, LENGTH))

    def forward(self, x: Tensor) -> Tensor:
        examples, length, width = x.size()
        q, k, v = self.qkv(self.norm_1(x)).split(WIDTH, dim=2)
        k = k.view(examples, length, HEADS, width // HEADS).transpose(1, 2)
        q = q.view(examples, length, HEADS, width // HEADS).transpose(1, 2)
        v = v.view(examples, length, HEADS, width // HEADS).transpose(1, 2)
        weights = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        weights = weights.masked_fill(self.mask[:, :, :length, :length] == 0, float("-inf"))
        y = F.softmax(weights, dim=-1) @ v
        x = x + self.out(y.transpose(1, 2).contiguous().view(examples, length, width))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class NanoGPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(NanoBlock() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.size(1), device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def _nanogpt() -> tuple[nn.Module, Loss, Any]:
    ids = tokens(LENGTH + 1)
    return NanoGPT(), _next_token, (ids[:, :-1].contiguous(), ids[:, 1:].contiguous())


class LSTMClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.lstm = nn.LSTM(16, 16, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, 5)

    def forward(self, ids: Tensor) -> Tensor:
        outputs, _ = self.lstm(self.embedding(ids))
        return self.head(outputs.mean(1))


def _lstm() -> tuple[nn.Module, Loss, Any]:
    return LSTMClassifier(), _classification, (tokens(), _labels())


class Double(nn.Sequential):
    """Two convolutions with batch statistics."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(
            nn.Conv2d(inside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(inplace=True),
            nn.Conv2d(outside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(inplace=True),
        )  # fmt: skip


class UNet(nn.Module):
    """Skips from every level of the way down to the way up."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([Double(3, 8), Double(8, 16)])
        self.middle = Double(16, 32)
        self.raise_ = nn.ModuleList([nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)])
        self.up = nn.ModuleList([Double(32, 16), Double(16, 8)])
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for raised, up in zip(self.raise_, self.up, strict=True):
            x = up(torch.cat([skips.pop(), raised(x)], dim=1))
        return self.head(x)


def _unet() -> tuple[nn.Module, Loss, Any]:
    return UNet(), _classification, (torch.randn(EXAMPLES, 3, 16, 16), torch.randint(3, (EXAMPLES, 16, 16)))


class DLRM(nn.Module):
    """Large embedding tables, a small network around them, and the products of all pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(2000, 16) for _ in range(6))
        self.bottom = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(16 + 21, 32), nn.ReLU(), nn.Linear(32, 1))
        self.register_buffer("pairs", torch.tril_indices(7, 7, offset=-1), persistent=False)

    def forward(self, dense: Tensor, categories: Tensor) -> Tensor:
        bottom = self.bottom(dense)
        rows = [bottom, *(table(categories[:, number]) for number, table in enumerate(self.tables))]
        stacked = torch.stack(rows, dim=1)
        products = torch.bmm(stacked, stacked.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        return self.top(torch.cat([bottom, products], dim=1)).squeeze(1)


def _dlrm() -> tuple[nn.Module, Loss, Any]:
    batch = {
        "dense": torch.randn(EXAMPLES, 8),
        "categories": torch.randint(2000, (EXAMPLES, 6)),
        "clicks": torch.randint(2, (EXAMPLES,)).float(),
    }
    return DLRM(), _clicks, batch


def _clicks(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(batch["dense"], batch["categories"]), batch["clicks"])


class GraphNetwork(nn.Module):
    """Messages along the edges of one graph per example, gathered and scattered by index."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, WIDTH)
        self.messages = nn.ModuleList(nn.Linear(2 * WIDTH, WIDTH) for _ in range(2))
        self.updates = nn.ModuleList(nn.GRUCell(WIDTH, WIDTH) for _ in range(2))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        x = self.embed(nodes)
        sources, targets = (index[..., None].expand(-1, -1, WIDTH) for index in edges.unbind(-1))
        for message, update in zip(self.messages, self.updates, strict=True):
            sent = F.relu(message(torch.cat([x.gather(1, sources), x.gather(1, targets)], dim=-1)))
            received = torch.zeros_like(x).scatter_add(1, targets, sent)
            x = update(received.flatten(0, 1), x.flatten(0, 1)).view_as(x)
        return self.head(x.mean(1))


def _graph_network() -> tuple[nn.Module, Loss, Any]:
    batch = (torch.randn(EXAMPLES, 7, 6), torch.randint(7, (EXAMPLES, 12, 2)), _labels())
    return GraphNetwork(), lambda model, batch: F.cross_entropy(model(batch[0], batch[1]), batch[2]), batch


class MixerBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.tokens = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.channels = nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm_1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm_2(x))


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.blocks = nn.Sequential(*(MixerBlock() for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(1))


def _mixer() -> tuple[nn.Module, Loss, Any]:
    return Mixer(), _classification, (torch.randn(EXAMPLES, 3, 16, 16), _labels())


class Loop(nn.Module):
    """A Python loop over time with one cell, and a list of states."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.cell = nn.Linear(2 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        inputs, state, states = self.embedding(ids), torch.zeros(ids.shape[0], WIDTH, device=ids.device), []
        for position in range(ids.shape[1]):
            state = torch.tanh(self.cell(torch.cat([inputs[:, position], state], dim=-1)))
            states.append(state)
        return self.head(torch.stack(states, dim=1))


def _loop() -> tuple[nn.Module, Loss, Any]:
    ids = tokens(LENGTH + 1)
    return Loop(), _next_token, (ids[:, :-1].contiguous(), ids[:, 1:].contiguous())


class EarlyExit(nn.Module):
    """Stops when it is sure: control flow on values."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
            if x.mean() > 10:
                break
        return self.head(x)


def _early_exit() -> tuple[nn.Module, Loss, Any]:
    return EarlyExit(), _classification, (torch.randn(EXAMPLES, WIDTH), _labels())


OWN = (
    ZooModel(name="nanogpt", family="own", build=_nanogpt),
    ZooModel(name="lstm", family="own", build=_lstm),
    ZooModel(name="unet", family="own", build=_unet),
    ZooModel(name="dlrm", family="own", build=_dlrm),
    ZooModel(name="graph-network", family="own", build=_graph_network),
    ZooModel(name="mlp-mixer", family="own", build=_mixer),
    ZooModel(name="python-loop", family="own", build=_loop),
    ZooModel(name="early-exit", family="own", build=_early_exit, captured=False),
)
