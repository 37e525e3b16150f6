"""All kernels at once under every sharding train as the plain program on one device does."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import nn

from meshwright.cost import Batch, Kernels, Mesh, Strategy, Worker
from meshwright.run import Engine, Job

FASTEST = Kernels(
    matrix_library="onednn", optimizer="fused", allocator="retained", memory_format="channels_last", random="sfc64"
)
SIZE = 256


def cross_entropy(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    images, classes = batch
    return nn.functional.cross_entropy(model(images), classes)


def losses(strategy: Strategy) -> list[float]:
    """Four steps of a small network, whose products are large enough for oneDNN."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 256), nn.ReLU(), nn.Linear(256, 10)
    )
    batch = torch.randn(SIZE, 1, 8, 8), torch.randint(0, 10, (SIZE,))
    job = Job(model=model, optimizer=torch.optim.AdamW(model.parameters()), loss=cross_entropy)
    engine = Engine(job, strategy, rank=dist.get_rank() if strategy.num_workers > 1 else 0)
    values = [engine.step(batch).item() for _ in range(4)]
    engine.close()
    return values


def strategy(num_workers: int, sharding: str) -> Strategy:
    axis = "dp_replicate" if sharding == "none" else "dp_shard"
    return Strategy(
        workers=tuple(Worker(rank=rank, host="localhost", device="cpu", threads=1) for rank in range(num_workers)),
        mesh=Mesh(**{axis: num_workers}),
        batch=Batch(size=SIZE, shares=(1,) * num_workers),
        sharding=sharding,
    )


@pytest.mark.parametrize("sharding", ["none", "optimizer", "gradients", "parameters"])
def test_fastest_kernels_on_two_workers_equal_the_plain_program(workers, sharding):
    plain = workers(2).run(losses, strategy(1, "none"))[0]
    fastest = workers(2).run(losses, replace(strategy(2, sharding), kernels=FASTEST))
    assert fastest[0] == fastest[1] == pytest.approx(plain, rel=1e-6)
