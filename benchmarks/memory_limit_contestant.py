"""One way of training a GPT on fixed random tokens; prints every step's loss. Started by `memory_limit`.

python memory_limit_contestant.py plain WIDTH LAYERS BATCH LENGTH VOCABULARY STEPS
torchrun … memory_limit_contestant.py ddp …
meshwright run memory_limit_contestant.py meshwright …
"""

import argparse
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

HEADS = 8
RATE = 3e-4


class Block(nn.Module):
    """Attention and a perceptron, each with a norm before and a residual around it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Of one sequence per example."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """A decoder without dropout, so that every way computes the same."""

    def __init__(self, width: int, layers: int, length: int, vocabulary: int) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of every position."""
        x = self.token(tokens) + self.position.weight
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """Mean cross-entropy of the next token."""
    logits = model(tokens[:, :-1])
    return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def plain(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[Tensor], Tensor]:
    """The step as a script without any library has it."""

    def step(batch: Tensor) -> Tensor:
        value = loss(model, batch)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return value.detach()

    return step


def ddp(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[Tensor], Tensor]:
    """torch's data parallelism; a worker gets its share of the batch, one example at least."""
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    wrapped = plain(nn.parallel.DistributedDataParallel(model), optimizer)

    def step(batch: Tensor) -> Tensor:
        share = batch if len(batch) < world else batch.tensor_split(world)[rank]
        value = wrapped(share)
        dist.all_reduce(value)
        return value / world

    return step


def meshwright(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[Tensor], Tensor]:
    """Under the plan that Meshwright makes."""
    import meshwright as mw

    return mw.parallel(model, optimizer, loss)


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=("plain", "ddp", "meshwright"))
    for name in ("width", "layers", "batch", "length", "vocabulary", "steps"):
        parser.add_argument(name, type=int)
    args = parser.parse_args()
    torch.manual_seed(0)
    model = GPT(args.width, args.layers, args.length, args.vocabulary)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    step = {"plain": plain, "ddp": ddp, "meshwright": meshwright}[args.way](model, optimizer)
    tokens = torch.randint(args.vocabulary, (args.batch, args.length + 1), generator=torch.Generator().manual_seed(1))
    for number in range(1, args.steps + 1):
        value = float(step(tokens))
        if getattr(step, "is_main", not dist.is_initialized() or dist.get_rank() == 0):
            print(f"step {number}: loss {value:.7f}", flush=True)
    if args.way == "ddp":
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
