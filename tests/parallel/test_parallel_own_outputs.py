"""Models, and losses, that change what a sharded module gave in place."""

import pytest
import torch
import torch.distributed as dist
from parallel_jobs import Case, strategy
from torch import Tensor, nn

from meshwright.parallel import apply

WIDTH = 6


class Residual(nn.Module):
    """Adds what each layer gave, a view, in place to what came before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            y = layer(x)
            y += torch.tanh(x)
            x = y
        return self.head(x)


def _loss(model: nn.Module, x: Tensor) -> Tensor:
    logits = model(x)
    logits /= 2.0
    return logits.square().sum()


def distance(blocks: tuple[str, ...]) -> float:
    """Largest difference of a gradient from one device's, over two steps."""
    torch.manual_seed(0)
    model, reference = Residual().double(), Residual().double()
    reference.load_state_dict(model.state_dict())
    plan = strategy(Case(sharding="parameters", shares=(2, 2)))
    job = apply(model, torch.optim.SGD(model.parameters(), lr=0.1), plan, graph_blocks=blocks)
    worst = 0.0
    for step in range(2):
        x = torch.randn(4, 3, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        reference.zero_grad()
        _loss(reference, x).backward()
        job.zero_gradients()
        with job.micro_batch(last=True):
            _loss(job.model, x.tensor_split(2)[dist.get_rank()]).backward()
        job.reduce(1.0)
        found = job.full_gradients()
        for name, tensor in reference.named_parameters():
            assert tensor.grad is not None
            gradient = found[name]
            worst = max(worst, float("inf") if gradient is None else float((gradient - tensor.grad).abs().max()))
    job.close()
    return worst


@pytest.mark.parametrize("blocks", [("layers.0", "layers.1", "layers.2"), ()])
def test_what_a_sharded_module_gave_may_be_changed_in_place(workers, blocks):
    assert max(workers(2).run(distance, blocks)) < 1e-12
