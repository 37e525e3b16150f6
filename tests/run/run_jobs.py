"""Jobs and strategies that the tests of `run` share; imported by worker processes too."""

import copy
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from meshwright.cost import Batch, Exchange, Mesh, Strategy, Worker
from meshwright.run import Engine, Job


def strategy(
    size,
    num_workers=2,
    *,
    shares=None,
    accumulation=1,
    sharding="none",
    recompute=(),
    transport="gloo",
):
    """Data parallelism over workers of one thread each."""
    axis = {"dp_replicate": num_workers} if sharding == "none" else {"dp_shard": num_workers}
    return Strategy(
        workers=tuple(Worker(rank=rank, host="localhost", device="cpu", threads=1) for rank in range(num_workers)),
        mesh=Mesh(**axis),
        batch=Batch(size=size, shares=shares or (1,) * num_workers, accumulation=accumulation),
        sharding=sharding,
        recompute=recompute,
        exchange=Exchange(transport=transport),
    )


class Tied(nn.Module):
    """Input and output share their weights; one layer is used for some batches only."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.body = nn.Linear(6, 6)
        self.unused = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.body(self.embed(tokens))))


class Normed(nn.Module):
    """Batch normalisation between convolutions."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4 * 4, 3)
        )

    def forward(self, images):
        return self.layers(images)


class Dropping(nn.Module):
    """Dropout between linear layers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 32), nn.Dropout(0.5), nn.Linear(32, 3))

    def forward(self, values):
        return self.layers(values)


@dataclass(frozen=True)
class Labelled:
    """A batch as a dataclass, with something that belongs to no example."""

    values: torch.Tensor
    labels: torch.Tensor
    name: str = "train"


def mlp():
    """A small perceptron in float64, the same in every process."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def labelled(size, seed=0):
    """A batch of values and labels."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(size, 5, generator=generator, dtype=torch.float64)
    return values, torch.randint(3, (size,), generator=generator)


def masked_tokens(size, seed=0):
    """Tokens, targets, and a mask that keeps other numbers of them in each example."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(11, (size, 7), generator=generator)
    keep = torch.rand(size, 7, generator=generator) < torch.linspace(0.2, 0.9, size)[:, None]
    keep[0, 0] = True
    return {"tokens": tokens, "targets": tokens.roll(1, dims=1), "keep": keep}


def cross_entropy(model, batch):
    """The mean over the examples of a tuple."""
    return F.cross_entropy(model(batch[0]), batch[1])


def cross_entropy_of_fields(model, batch):
    """The mean over the examples of a dataclass."""
    assert batch.name == "train"
    return F.cross_entropy(model(batch.values), batch.labels)


def masked_cross_entropy(model, batch):
    """Sum over the kept tokens, and their number."""
    each = F.cross_entropy(model(batch["tokens"]).transpose(1, 2), batch["targets"], reduction="none")
    return (each * batch["keep"]).sum(), batch["keep"].sum()


def plain_steps(model, loss, batches, *, clip=None, schedule=False, lr=0.1):
    """The loop as a user writes it on one device: losses and final parameters."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5) if schedule else None
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        value = loss(model, batch)
        if isinstance(value, tuple):
            value = value[0] / value[1]
        value.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(value.item())
    return losses, {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def engine_steps(model, loss, batches, plan, *, clip=None, schedule=False, lr=0.1):
    """The same by an engine, on this process's share."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5) if schedule else None
    rank = dist.get_rank() if plan is not None and plan.num_workers > 1 else 0
    engine = Engine(Job(model=model, optimizer=optimizer, loss=loss, clip=clip), plan, rank=rank)
    losses = []
    for batch in batches:
        losses.append(engine.step(batch).item())
        if scheduler is not None:
            scheduler.step()
    state = engine.placed.full_state_dict()
    engine.close()
    return losses, state


def difference(model, loss, batches, plan, **options):
    """Largest difference between both, in losses and in the state."""
    wanted, expected = plain_steps(copy.deepcopy(model), loss, batches, **options)
    losses, state = engine_steps(model, loss, batches, plan, **options)
    apart = [abs(one - other) for one, other in zip(losses, wanted, strict=True)]
    apart += [(state[name].double() - value.double()).abs().max().item() for name, value in expected.items()]
    return max(apart)
