"""Experts spread over data ranks against one device, with routing as uneven as it comes."""

import copy

import pytest
import torch
import torch.distributed as dist
from hybrid_jobs import Case, strategy
from torch import nn

from meshwright.cost import Mesh, Pipeline
from meshwright.errors import PlanError
from meshwright.parallel.expert._route import Leave, Return, Route, offsets_of
from meshwright.parallel.tensor import GroupCommunicator, HostCommunicator
from meshwright.run import Engine, Job
from zoo import zoo_model


def job(name):
    torch.manual_seed(0)
    model, loss, batch = zoo_model(name).make()
    return Job(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), loss=loss, clip=1.0), batch


def compare(name, case, favourite=None):
    mine, batch = job(name)
    if favourite is not None:
        for module in mine.model.modules():
            if isinstance(router := getattr(module, "gate", None), nn.Module) and hasattr(router, "weight"):
                with torch.no_grad():
                    router.weight.zero_()[favourite] = 1e-3
    reference = Engine(Job(**{**_fields(mine), **_copied(mine)}))
    engine = Engine(mine, strategy(case), rank=dist.get_rank())
    worst = 0.0
    for _ in range(2):
        found, expected = engine.step(batch), reference.step(batch)
        worst = max(worst, abs(float(found) - float(expected)))
    moved, wanted = engine.placed.full_parameters(), reference.placed.full_parameters()
    held = {item.name: item.parameter.numel() for item in engine.placed.held()}
    share = min(held[key] / value.numel() for key, value in wanted.items() if key in held)
    engine.close()
    return worst, max(float((moved[key] - wanted[key]).abs().max()) for key in wanted), share


def _fields(one):
    return {"loss": one.loss, "clip": one.clip}


def _copied(one):
    model, optimizer = copy.deepcopy((one.model, one.optimizer))
    return {"model": model, "optimizer": optimizer}


@pytest.mark.parametrize("name", ["mixtral", "qwen2-moe", "olmoe"])
def test_spread_experts_learn_as_on_one_device(workers, name):
    for loss, parameters, share in workers(2).run(compare, name, Case(mesh=Mesh(dp_replicate=2, ep=2), shares=(5, 3))):
        assert loss < 1e-5
        assert parameters < 1e-5
        assert share == 0.5


def test_all_tokens_for_one_expert(workers):
    for loss, parameters, _ in workers(2).run(
        compare, "mixtral", Case(mesh=Mesh(dp_replicate=2, ep=2), shares=(4, 4)), 3
    ):
        assert loss < 1e-5
        assert parameters < 1e-5


@pytest.mark.parametrize(
    "case",
    [
        Case(mesh=Mesh(dp_replicate=4, ep=2), shares=(2, 2, 2, 2)),
        Case(mesh=Mesh(dp_replicate=2, ep=2, tp=2), shares=(4, 4)),
        Case(mesh=Mesh(dp_shard=4, ep=2), shares=(2, 2, 2, 2), sharding="optimizer"),
        Case(mesh=Mesh(dp_replicate=2, dp_shard=2, ep=2), shares=(3, 2, 2, 1), sharding="gradients"),
        Case(mesh=Mesh(dp_shard=4, ep=2), shares=(3, 2, 2, 1), sharding="parameters"),
        Case(mesh=Mesh(dp_replicate=2, dp_shard=2, ep=4), shares=(2, 2, 2, 2), sharding="parameters"),
        Case(mesh=Mesh(dp_replicate=2, cp=2, ep=2), shares=(5, 3)),
        Case(mesh=Mesh(dp_shard=2, cp=2, ep=4), shares=(5, 3), sharding="parameters"),
        Case(mesh=Mesh(cp=2, ep=2, tp=2), shares=(8,)),
        Case(mesh=Mesh(pp=2, cp=2, ep=2), shares=(8,), accumulation=2, choices=(("pipeline", Pipeline()),)),
        Case(mesh=Mesh(pp=2, dp_replicate=2, ep=2), shares=(4, 4), accumulation=2, choices=(("pipeline", Pipeline()),)),
    ],
    ids=[
        "replicas",
        "tensor",
        "optimizer",
        "gradients",
        "parameters",
        "alone",
        "context",
        "context and shards",
        "context and tensor",
        "context and pipeline",
        "pipeline",
    ],
)
def test_spread_experts_with_other_axes(workers, case):
    for loss, parameters, _ in workers(4).run(compare, "mixtral", case):
        assert loss < 1e-5
        assert parameters < 1e-5


def travel(counts, carrier):
    """Rows numbered by worker and place, to experts in pairs; what arrives, and what comes home."""
    rank = dist.get_rank()
    communicator = {"group": GroupCommunicator, "host": HostCommunicator}[carrier](dist.group.WORLD)
    mine = torch.tensor(counts[rank])
    rows = (torch.arange(int(mine.sum()), dtype=torch.float64) + 100 * rank)[:, None].requires_grad_()
    journey = Route(communicator)(mine.cumsum(0).to(torch.int32))
    there = Leave(communicator)(rows, journey)
    home = Return(communicator)(there * 2, journey)
    (home * rows.detach()).sum().backward()
    return (
        there.squeeze(1).tolist(),
        offsets_of(journey).tolist(),
        home.squeeze(1).tolist(),
        rows.grad.squeeze(1).tolist(),
    )


@pytest.mark.parametrize("carrier", ["group", "host"])
def test_rows_arrive_by_expert_and_come_home(workers, carrier):
    first, second = workers(2).run(travel, [[1, 2, 0, 1], [0, 1, 3, 0]], carrier)
    assert first[:2] == ([0.0, 1.0, 2.0, 100.0], [1, 4])
    assert second[:2] == ([101.0, 102.0, 103.0, 3.0], [3, 4])
    assert first[2] == [0.0, 2.0, 4.0, 6.0]
    assert second[2] == [200.0, 202.0, 204.0, 206.0]
    assert first[3] == [0.0, 2.0, 4.0, 6.0]


def refused(name, case):
    mine, batch = job(name)
    engine = Engine(mine, strategy(case), rank=dist.get_rank())
    try:
        engine.step(batch)
    except PlanError as error:
        return str(error)
    return ""


def test_a_model_without_experts_is_refused(workers):
    (message, *_) = workers(2).run(refused, "gpt2", Case(mesh=Mesh(dp_replicate=2, ep=2), shares=(4, 4)))
    assert "expert = 2: the model has no mixture of experts" in message
