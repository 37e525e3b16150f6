"""Gathering a block while the one before it computes: in what order, and equal to one device when the order changes."""

import torch
import torch.distributed as dist
from parallel_jobs import Case, strategy
from torch import Tensor, nn

from meshwright.parallel import apply

WIDTH = 6
# The second forward leaves out a block that was gathered for it, the third turns the order round.
ORDERS = ((0, 1, 2), (0, 2), (2, 1, 0), (0, 1, 1, 2))


class Layers(nn.Module):
    """Runs its blocks in the order it is told."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.events = events

    def forward(self, x: Tensor, order: tuple[int, ...]) -> Tensor:
        for number in order:
            x = x + torch.tanh(self.layers[number](x))
            self.events.append(f"ran {number}")
        return x


def _recorded(layer: nn.Module, name: str, events: list[str]) -> None:
    gather = layer.unshard

    def unshard(async_op: bool = False) -> object:
        events.append(f"gathers {name}")
        return gather(async_op=async_op)

    layer.__dict__["unshard"] = unshard


def train() -> tuple[list[list[str]], float]:
    """Steps in several orders: what happened in each forward, and the largest distance from one device."""
    events: list[str] = []
    torch.manual_seed(0)
    model, reference = Layers(events).double(), Layers([]).double()
    reference.load_state_dict(model.state_dict())
    optimizer, one = (torch.optim.SGD(each.parameters(), lr=0.1) for each in (model, reference))
    plan = strategy(Case(sharding="parameters", shares=(2, 2)))
    job = apply(model, optimizer, plan, graph_blocks=("layers.0", "layers.1", "layers.2"))
    for number, layer in enumerate(model.layers):
        _recorded(layer, str(number), events)
    told, worst = [], 0.0
    for step, order in enumerate(ORDERS):
        x = torch.randn(4, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        one.zero_grad()
        reference(x, order).square().sum().backward()
        one.step()
        job.zero_gradients()
        events.clear()
        with job.micro_batch(last=True):
            loss = job.model(x.tensor_split(2)[dist.get_rank()], order).square().sum()
            told.append(list(events))
            loss.backward()
        job.reduce(1.0)
        job.update()
        parameters = job.full_parameters()
        for name, tensor in reference.state_dict().items():
            worst = max(worst, float((parameters[name] - tensor).abs().max()))
    job.close()
    return told, worst


def test_the_next_block_is_gathered_before_a_block_runs(workers):
    for told, worst in workers(2).run(train):
        assert told == [
            ["ran 0", "ran 1", "ran 2"],
            ["gathers 0", "gathers 1", "ran 0", "ran 2"],
            ["gathers 0", "ran 2", "gathers 2", "ran 1", "ran 0"],
            ["gathers 2", "ran 0", "gathers 0", "ran 1", "ran 1", "gathers 1", "ran 2"],
        ]
        assert worst < 1e-12
