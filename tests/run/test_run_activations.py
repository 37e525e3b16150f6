"""Blocks' activations in the host's memory, through the step engine: the same bits as without, whole and in shards."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from run_jobs import cross_entropy, strategy
from torch import nn

from meshwright.run import Engine, Job

SIZE, WIDTH = 128, 256  # 128 KiB for each tensor of a block


def _model() -> nn.Module:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(2)]
    return nn.Sequential(*blocks, nn.Linear(WIDTH, 3))


def _trained(plan):
    """Losses and parameters after three steps, and tensors that went to the host."""
    from meshwright.parallel import _activation_offload as room

    torch.manual_seed(1)
    went, kept = [], room._on_host
    room._on_host = lambda tensor: went.append(tensor.shape) or kept(tensor)
    try:
        model = _model()
        job = Job(model=model, optimizer=torch.optim.AdamW(model.parameters()), loss=cross_entropy, blocks=("0", "1"))
        engine = Engine(job, plan, rank=dist.get_rank() if plan.num_workers > 1 else 0)
        batches = [(torch.randn(SIZE, WIDTH), torch.randint(3, (SIZE,))) for _ in range(3)]
        losses = [engine.step(batch).item() for batch in batches]
        state = engine.placed.full_state_dict()
        engine.close()
    finally:
        room._on_host = kept
    return losses, state, len(went)


def _apart(plan):
    """Whether both ways give the same bits, and what each sent to the host."""
    here, away = _trained(plan), _trained(replace(plan, offload="activations"))
    same = all(torch.equal(value, away[1][name]) for name, value in here[1].items())
    return same and here[0] == away[0], here[2], away[2]


def test_one_worker_with_micro_batches() -> None:
    same, here, away = _apart(strategy(SIZE, 1, accumulation=2))
    assert same
    assert here == 0
    assert away >= 3 * 2 * 2 * 2  # steps, micro-batches, blocks, what Tanh and ReLU save at least


@pytest.mark.parametrize("sharding", ["none", "parameters"])
def test_two_workers(workers, sharding: str) -> None:
    for same, here, away in workers(2).run(_apart, strategy(SIZE, sharding=sharding)):
        assert same
        assert here == 0
        assert away >= 3 * 2 * 2
