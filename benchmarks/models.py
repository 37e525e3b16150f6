"""The six training jobs of the local benchmark, each as a user would write it for one device."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Batch = tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A model, its loss, and how to make a batch.

    Args:
        model: built with random weights.
        loss: mean loss of a batch.
        batch: makes one batch of random data.
        size: examples per batch.
    """

    model: nn.Module
    loss: Callable[[nn.Module, Batch], Tensor]
    batch: Callable[[], Batch]
    size: int


class SelfAttentionBlock(nn.Module):
    """Pre-norm transformer block with causal attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x_btd: Tensor) -> Tensor:
        batch, time, width = x_btd.shape
        qkv = self.qkv(self.attention_norm(x_btd)).view(batch, time, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x_btd.shape)
        x_btd = x_btd + self.projection(attended)
        return x_btd + self.mlp(self.mlp_norm(x_btd))


class CharacterGPT(nn.Module):
    """A GPT over characters."""

    def __init__(self, *, vocabulary: int, time: int, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(time, width)
        self.blocks = nn.ModuleList(SelfAttentionBlock(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, tokens_bt: Tensor) -> Tensor:
        x_btd = self.token(tokens_bt) + self.position.weight[: tokens_bt.shape[1]]
        for block in self.blocks:
            x_btd = block(x_btd)
        return self.head(self.norm(x_btd))


class CharacterLSTM(nn.Module):
    """A two-layer LSTM over characters."""

    def __init__(self, *, vocabulary: int, width: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width // 2)
        self.lstm = nn.LSTM(width // 2, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens_bt: Tensor) -> Tensor:
        return self.head(self.lstm(self.token(tokens_bt))[0])


def next_token_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of the next character."""
    inputs_bt, targets_bt = batch
    return F.cross_entropy(model(inputs_bt).flatten(0, 1), targets_bt.flatten())


def class_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of the class."""
    return F.cross_entropy(model(batch[0]), batch[1])


def character_gpt() -> Job:
    """GPT of 0.8 million parameters, 32 sequences of 128 characters."""
    model = CharacterGPT(vocabulary=128, time=128, width=128, heads=4, depth=4)
    return Job(model=model, loss=next_token_loss, batch=lambda: _text(32, 128), size=32)


def digits_cnn() -> Job:
    """Convolutional network on 8 × 8 digits, 128 images."""
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    return Job(model=model, loss=class_loss, batch=lambda: _images(128, 1, 8), size=128)


def transformers_bert() -> Job:
    """BERT classifier of `transformers`, 16 texts of 128 tokens."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=2000, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024
    )
    return Job(
        model=BertForSequenceClassification(config),
        loss=lambda model, batch: model(input_ids=batch[0], labels=batch[1]).loss,
        batch=lambda: (torch.randint(0, 2000, (16, 128)), torch.randint(0, 2, (16,))),
        size=16,
    )


def tabular_mlp() -> Job:
    """Multilayer perceptron on 54 columns, 512 rows."""
    layers: list[nn.Module] = [nn.Linear(54, 512), nn.ReLU()]
    for _ in range(2):
        layers += [nn.Linear(512, 512), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(512, 7))
    return Job(
        model=model, loss=class_loss, batch=lambda: (torch.randn(512, 54), torch.randint(0, 7, (512,))), size=512
    )


def character_lstm() -> Job:
    """LSTM of 0.9 million parameters, 32 sequences of 64 characters."""
    model = CharacterLSTM(vocabulary=128, width=256)
    return Job(model=model, loss=next_token_loss, batch=lambda: _text(32, 64), size=32)


def transformers_resnet() -> Job:
    """ResNet of `transformers`, 32 images of 64 × 64."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=32, hidden_sizes=[32, 64, 128, 256], depths=[2, 2, 2, 2], layer_type="basic", num_labels=10
    )
    return Job(
        model=ResNetForImageClassification(config),
        loss=lambda model, batch: model(pixel_values=batch[0], labels=batch[1]).loss,
        batch=lambda: _images(32, 3, 64),
        size=32,
    )


def _text(size: int, time: int) -> Batch:
    tokens_bt = torch.randint(0, 128, (size, time + 1))
    return tokens_bt[:, :-1].contiguous(), tokens_bt[:, 1:].contiguous()


def _images(size: int, channels: int, edge: int) -> Batch:
    return torch.randn(size, channels, edge, edge), torch.randint(0, 10, (size,))


JOBS: dict[str, Callable[[], Job]] = {
    "character_gpt": character_gpt,
    "digits_cnn": digits_cnn,
    "transformers_bert": transformers_bert,
    "tabular_mlp": tabular_mlp,
    "character_lstm": character_lstm,
    "transformers_resnet": transformers_resnet,
}


def build(name: str) -> tuple[Job, list[Any]]:
    """A job and eight batches, the same ones on every call."""
    torch.manual_seed(0)
    job = JOBS[name]()
    return job, [job.batch() for _ in range(8)]
