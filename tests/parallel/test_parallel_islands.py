"""Islands that split sequences or spread experts, beside islands of whole models, in float64."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
import transformers.integrations.moe  # noqa: F401  (has the product of rows in groups)
from hybrid_jobs import Case, Decoder, mean, strategy
from torch import Tensor, nn

from meshwright.cost import Mesh, Updates
from meshwright.errors import PlanError
from meshwright.run import Engine, Job

EXPERTS, WIDTH, SIZE = 4, 8, 8
UPDATES = Updates(kind="local", interval=2, momentum=0.5, check_every=0)


class Mixture(nn.Module):
    """Every token goes through one of four networks, as transformers computes them: sorted, in grouped products."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.up = nn.Parameter(torch.randn(EXPERTS, WIDTH, 2 * WIDTH) / 3)
        self.down = nn.Parameter(torch.randn(EXPERTS, 2 * WIDTH, WIDTH) / 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)
        weights, chosen = self.gate(rows).softmax(-1).max(-1)
        ordered, order = torch.sort(chosen)
        counts = torch.histc(ordered.float(), bins=EXPERTS, min=0, max=EXPERTS - 1)
        offsets = torch.cumsum(counts, dim=0, dtype=torch.int32)
        product = torch.ops.transformers.grouped_mm_fallback
        found = product(F.gelu(product(rows[order], self.up, offsets)), self.down, offsets) * weights[order][:, None]
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        return x + found[back].view_as(x)


class Spread(Decoder):
    """The same decoder with a mixture of experts at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Sequential(Mixture(), self.norm)


def job(kind):
    torch.manual_seed(1)
    model = {"decoder": Decoder, "experts": Spread}[kind]().double()
    # AdamW would make steps of what is rounded where a gradient is zero, as those of the keys' biases are
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Job(model=model, optimizer=optimizer, loss=mean, allow=("staleness",), blocks=model.blocks)


def after(kind, plan, count):
    """Whole parameters that all islands agree on after some steps."""
    engine = Engine(job(kind), plan, rank=dist.get_rank())
    for step in range(count):
        tokens = torch.randint(12, (SIZE, 6), generator=torch.Generator().manual_seed(step))
        engine.step((tokens, tokens.roll(1, 1)))
    found = engine.placed.full_parameters()
    engine.close()
    return found


def apart(mesh, updates=UPDATES, **choices):
    shares = (SIZE // mesh.num_shares,) * mesh.num_shares
    plan = strategy(Case(mesh=mesh, shares=shares, choices=tuple(choices.items())))
    return replace(plan, exchange=replace(plan.exchange, updates=updates))


@pytest.mark.parametrize(
    ("kind", "mesh", "choices"),
    [
        ("decoder", Mesh(dp_replicate=2, cp=2), {}),
        ("experts", Mesh(dp_replicate=4, ep=2), {}),
        ("experts", Mesh(dp_replicate=2, dp_shard=2, ep=2), {"sharding": "parameters"}),
        ("experts", Mesh(dp_replicate=2, cp=2, ep=2), {}),
    ],
    ids=["context", "experts", "experts in shards", "experts and context"],
)
def test_islands_that_split_are_where_whole_ones_are(workers, kind, mesh, choices):
    wanted = workers(2).run(after, kind, apart(Mesh(dp_replicate=2)), 4)[0]
    found = workers(4).run(after, kind, apart(mesh, **choices), 4)
    begin = dict(job(kind).model.named_parameters())
    assert max(float((wanted[name] - begin[name].detach()).abs().max()) for name in wanted) > 0.01
    for one in found:
        assert one.keys() == wanted.keys()
        assert max(float((one[name] - wanted[name]).abs().max()) for name in wanted) < 1e-12


def refused(plan):
    try:
        Engine(job("experts"), plan, rank=dist.get_rank())
    except PlanError as error:
        return str(error)
    return ""


def test_experts_of_more_than_one_island_are_refused(workers):
    for message in workers(2).run(refused, apart(Mesh(dp_replicate=2, ep=2))):
        assert "2 islands with expert = 2" in message
        assert "all experts of a layer are inside one island, which has 1 place for them" in message
