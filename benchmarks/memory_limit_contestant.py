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

from character_model import Block, loss

HEADS = 8
RATE = 3e-4


class GPT(nn.Module):
    """A decoder without dropout, so that every way computes the same."""

    def __init__(self, width: int, layers: int, length: int, vocabulary: int) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, HEADS) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of every position."""
        x = self.token(tokens) + self.position.weight
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


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
