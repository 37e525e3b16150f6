"""A job with everything that makes splitting hard, run by the step engine on all workers beside one device."""

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from meshwright.cost import Batch, Exchange, Mesh, Sharding, Strategy, Worker
from meshwright.run import Engine, Job
from meshwright.run._distance import difference, distance, whole_norm

VOCABULARY, WIDTH, LENGTH = 12, 8, 6


class Attention(nn.Module):
    """Two causal heads, queries, keys and values from one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """Attention and a feed-forward layer, with residuals."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Decoder(nn.Module):
    """Embedding tied to the head, a scalar, a frozen and an unused parameter."""

    blocks = ("layers.0", "layers.1")

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Parameter(torch.randn(LENGTH, WIDTH), requires_grad=False)
        self.layers = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight
        self.temperature = nn.Parameter(torch.tensor(1.5))
        self.unused = nn.Linear(3, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)) * self.temperature


class Convolutional(nn.Module):
    """Batch normalization between convolutions."""

    blocks = ("body.3",)

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU()),
            nn.Flatten(),
            nn.Linear(64, VOCABULARY),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)


MODELS: dict[str, type[nn.Module]] = {"decoder": Decoder, "convolutional": Convolutional}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison with one device; shares are those of the data ranks."""

    mesh: Mesh
    model: str = "decoder"
    sharding: Sharding = "none"
    shares: tuple[int, ...] = (4,)
    accumulation: int = 1
    recompute: bool = False
    weighted: bool = False
    clip: float | None = 0.1
    transport: str = "shared_memory"
    choices: tuple[tuple[str, Any], ...] = ()
    sizes: tuple[int, ...] = ()


def strategy(case: Case) -> Strategy:
    """The case as a strategy."""
    plain = Strategy(
        workers=tuple(Worker(rank=rank, host="here", device="cpu", threads=1) for rank in range(case.mesh.num_workers)),
        mesh=case.mesh,
        batch=Batch(size=sum(case.shares), shares=case.shares, accumulation=case.accumulation),
        sharding=case.sharding,
        recompute=MODELS[case.model].blocks if case.recompute else (),
        exchange=Exchange(transport=case.transport, bucket_size=1024),
    )
    return replace(plain, **dict(case.choices))


def job(case: Case, seed: int) -> Job:
    """Matrices and vectors in groups of their own, with another learning rate and weight decay."""
    torch.manual_seed(seed)
    model = MODELS[case.model]().double()
    matrices = [tensor for tensor in model.parameters() if tensor.dim() > 1]
    vectors = [tensor for tensor in model.parameters() if tensor.dim() < 2]
    groups = [{"params": matrices, "lr": 2e-2}, {"params": vectors, "weight_decay": 0.3}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.1)
    loss = weighted if case.weighted else mean
    return Job(model=model, optimizer=optimizer, loss=loss, clip=case.clip, blocks=model.blocks)


def mean(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The mean over all tokens, or images."""
    return F.cross_entropy(model(batch[0]).flatten(0, -2), batch[1].flatten())


def weighted(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The sum over the tokens that are not 0, and how many those are."""
    values = F.cross_entropy(model(batch[0]).flatten(0, -2), batch[1].flatten(), reduction="none")
    counted = (batch[1].flatten() != 0).to(values.dtype)
    return (values * counted).sum(), counted.sum()


def batch(case: Case, step: int) -> tuple[Tensor, Tensor]:
    """The global batch of a step."""
    generator = torch.Generator().manual_seed(step)
    size = case.sizes[step] if case.sizes else sum(case.shares)
    if case.model == "convolutional":
        images = torch.randn(size, 2, 6, 6, generator=generator, dtype=torch.float64)
        return images, torch.randint(VOCABULARY, (size,), generator=generator)
    tokens = torch.randint(VOCABULARY, (size, LENGTH), generator=generator)
    return tokens, tokens.roll(1, 1)


def compare(case: Case) -> dict[str, float]:
    """Steps of all workers and of one device: the largest distances, relative to the norm of the whole gradient.

    Every worker builds other weights; worker 0's count.
    """
    engine = Engine(job(case, dist.get_rank()), strategy(case), rank=dist.get_rank())
    reference = Engine(job(case, 0))
    begin = reference.placed.full_parameters()
    worst = dict.fromkeys(("loss", "gradients", "norm", "parameters", "state", "nones"), 0.0)
    for step in range(len(case.sizes) or 3):
        found = _step(engine, batch(case, step))
        expected = _step(reference, batch(case, step))
        scale = whole_norm(expected[1])
        nones = [{name for name, gradient in one.items() if gradient is None} for one in (found[1], expected[1])]
        frozen = {name for name, tensor in reference.job.model.named_parameters() if not tensor.requires_grad}
        worst["nones"] += len(nones[0] ^ (nones[1] - frozen))
        worst["loss"] = max(worst["loss"], abs(found[0] - expected[0]))
        worst["gradients"] = max(worst["gradients"], distance(found[1], expected[1], scale=scale).whole)
        if case.clip is not None:
            norm = float(engine.grad_norm)
            worst["norm"] = max(worst["norm"], abs(norm - float(reference.grad_norm)) / norm)
    moved, wanted = engine.placed.full_parameters(), reference.placed.full_parameters()
    walked = whole_norm({name: difference(value, begin[name]) for name, value in wanted.items()})
    worst["parameters"] = distance(moved, wanted, scale=walked).whole
    state, kept = engine.placed.full_state_dict(), reference.placed.full_state_dict()
    assert list(state) == list(kept)
    worst["state"] = max(float((state[key].double() - value.double()).abs().max()) for key, value in kept.items())
    engine.close()
    return worst


def _step(engine: Engine, batch: Any) -> tuple[float, dict[str, Tensor | None]]:
    engine.begin()
    loss = engine.compute(engine.share(batch))
    gradients = engine.placed.full_gradients()
    engine.update()
    return loss.item(), gradients
