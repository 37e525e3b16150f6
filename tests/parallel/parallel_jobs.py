"""Small models with everything that makes parallel training hard, and a step of them beside the one-device step."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from meshwright.cost import Batch, Exchange, Mesh, Sharding, Strategy, Worker
from meshwright.parallel import Parallelized, apply

VOCABULARY, WIDTH, LENGTH = 13, 6, 4


class Block(nn.Module):
    """A residual block; `sometimes` is used only for sequences whose first token is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 5)
        self.down = nn.Linear(5, WIDTH)
        self.sometimes = nn.Linear(WIDTH, WIDTH, bias=False)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor, chosen: Tensor) -> Tensor:
        self.calls += 1
        y = self.down(torch.tanh(self.up(self.norm(x))))
        if chosen.any():
            y = y + chosen[:, None, None] * self.sometimes(x)
        return x + y


class Tied(nn.Module):
    """Embedding tied to the head, a scalar, a frozen and an unused parameter, a conditional one in each block."""

    blocks = ("layers.0", "layers.1")

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight
        self.temperature = nn.Parameter(torch.tensor(1.5))
        self.frozen = nn.Parameter(torch.randn(WIDTH), requires_grad=False)
        self.unused = nn.Linear(3, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.frozen
        for layer in self.layers:
            x = layer(x, tokens[:, 0] == 0)
        return self.head(x) * self.temperature


class Convolutional(nn.Module):
    """Batch normalization with momentum, with cumulative averages, and without parameters.

    No biases before it: their gradient is zero but for rounding, which AdamW would blow up on both sides.
    """

    blocks = ("body.3",)

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Sequential(nn.Conv2d(4, 3, 3, bias=False), nn.BatchNorm2d(3, momentum=None), nn.ReLU()),
            nn.Flatten(),
            nn.Linear(27, 5, bias=False),
            nn.BatchNorm1d(5, affine=False),
            nn.Linear(5, VOCABULARY),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)


MODELS: dict[str, Callable[[], nn.Module]] = {"tied": Tied, "convolutional": Convolutional}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.1),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=1e-2, momentum=0.9, weight_decay=0.1),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison with one device."""

    model: str = "tied"
    optimizer: str = "adamw"
    sharding: Sharding = "none"
    transport: str = "gloo"
    shares: tuple[int, ...] = (4, 4)
    micro_batches: int = 1
    recompute: bool = False
    overlap: bool = True
    bucket_size: int = 512
    replicas: int = 1
    shards: tuple[int, ...] = ()
    clip: float = 0.0
    steps: int = 3


def strategy(case: Case) -> Strategy:
    """The case as a strategy."""
    size = len(case.shares)
    sharded = case.sharding != "none"
    shard = size // case.replicas
    return Strategy(
        workers=tuple(Worker(rank=rank, host="here", device="cpu", threads=1) for rank in range(size)),
        mesh=Mesh(dp_replicate=case.replicas, dp_shard=shard) if sharded else Mesh(dp_replicate=size),
        batch=Batch(size=sum(case.shares), shares=case.shares, accumulation=case.micro_batches),
        sharding=case.sharding,
        shards=case.shards,
        recompute=MODELS[case.model]().blocks if case.recompute else (),
        exchange=Exchange(transport=case.transport, bucket_size=case.bucket_size, overlap=case.overlap),
    )


def compare(case: Case) -> dict[str, float]:
    """Trains on all workers and on one device, and measures the largest distances over all steps.

    Gradients and parameters are compared relative to the norm of all of them. Every worker builds other weights;
    worker 0's count.
    """
    torch.manual_seed(dist.get_rank())
    model = MODELS[case.model]().double()
    torch.manual_seed(0)
    reference = MODELS[case.model]().double()
    optimizer, one = OPTIMIZERS[case.optimizer](_groups(model)), OPTIMIZERS[case.optimizer](_groups(reference))
    job = apply(model, optimizer, strategy(case), graph_blocks=model.blocks)
    worst = dict.fromkeys(("gradients", "parameters", "buffers", "norms", "nones"), 0.0)
    for step in range(case.steps):
        inputs, targets = batch(case, step)
        one.zero_grad()
        F.cross_entropy(reference(inputs).flatten(0, -2), targets.flatten()).backward()
        expected = {name: tensor.grad for name, tensor in reference.named_parameters() if tensor.requires_grad}
        gradients = run_step(job, case, inputs, targets)
        norm = float(nn.utils.get_total_norm([gradient for gradient in expected.values() if gradient is not None]))
        found = {"gradients": _distance(gradients, expected), "nones": float(_nones(gradients) != _nones(expected))}
        if case.clip:
            nn.utils.clip_grad_norm_(reference.parameters(), case.clip)
            found["norms"] = abs(float(job.clip(case.clip)) - norm) / norm
        job.update()
        one.step()
        found["parameters"] = _distance(job.full_parameters(), dict(reference.named_parameters()))
        worst |= {name: max(worst[name], value) for name, value in found.items()}
    state = job.full_state_dict()
    assert list(state) == list(reference.state_dict())
    for key, value in reference.state_dict().items():
        if "running" in key or "num_batches" in key:
            worst["buffers"] = max(worst["buffers"], float((state[key] - value).abs().max()))
    worst["state"] = sum(_held(value) for entry in optimizer.state.values() for value in entry.values())
    job.close()
    return worst


def batch(case: Case, step: int) -> tuple[Tensor, Tensor]:
    """The global batch of a step, the same on every worker; only its first sequence begins with token 0."""
    generator = torch.Generator().manual_seed(step)
    size = sum(case.shares)
    if case.model == "convolutional":
        images = torch.randn(size, 2, 5, 5, generator=generator, dtype=torch.float64)
        return images, torch.randint(VOCABULARY, (size,), generator=generator)
    tokens = torch.randint(1, VOCABULARY, (size, LENGTH), generator=generator)
    tokens[0, 0] = 0
    return tokens, tokens.roll(1, 1)


def run_step(job: Parallelized, case: Case, inputs: Tensor, targets: Tensor) -> dict[str, Tensor | None]:
    """This worker's part of a step up to the reduced gradients."""
    rank = dist.get_rank()
    start = sum(case.shares[:rank])
    share = slice(start, start + case.shares[rank])
    pieces = (tensor[share].tensor_split(case.micro_batches) for tensor in (inputs, targets))
    parts = list(zip(*pieces, strict=True))
    if not case.shares[rank] and not job.forwards_together:
        parts = []
    job.zero_gradients()
    for number, (x, y) in enumerate(parts):
        with job.micro_batch(last=number == len(parts) - 1):
            F.cross_entropy(job.model(x).flatten(0, -2), y.flatten(), reduction="sum").backward()
    job.reduce(targets.numel())
    return job.full_gradients()


def _groups(model: nn.Module) -> list[dict[str, object]]:
    matrices = [tensor for tensor in model.parameters() if tensor.dim() > 1]
    return [{"params": matrices, "lr": 2e-2}, {"params": [tensor for tensor in model.parameters() if tensor.dim() < 2]}]


def _distance(found: dict[str, Tensor | None], expected: dict[str, Tensor | None]) -> float:
    assert list(found) == list(expected)
    pairs = [(found[name], value) for name, value in expected.items() if value is not None and found[name] is not None]
    difference = sum(float((a - b.detach()).square().sum()) for a, b in pairs)
    return (difference / sum(float(b.detach().square().sum()) for _, b in pairs)) ** 0.5


def _nones(gradients: dict[str, Tensor | None]) -> list[str]:
    return [name for name, gradient in gradients.items() if gradient is None]


def _held(value: object) -> int:
    if isinstance(value, DTensor):
        value = value.to_local()
    return value.numel() if isinstance(value, Tensor) and value.dim() else 0
