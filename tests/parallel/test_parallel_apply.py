"""What users notice of a model made parallel: their objects, keys, schedulers, random numbers, messages."""

import copy
import logging
import math
import time
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from parallel_jobs import Case, Convolutional, Tied, batch, run_step, strategy
from torch import nn

from meshwright.cost import Mesh
from meshwright.errors import PlanError
from meshwright.parallel import apply
from meshwright.parallel._ownership import owners


def _linear(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double()


def _train(job, steps: int, scheduler=None) -> None:
    for step in range(steps):
        x = torch.randn(2, 4, generator=torch.Generator().manual_seed(10 * step + dist.get_rank()), dtype=torch.float64)
        with job.micro_batch(last=True):
            job.model(x).square().sum().backward()
        job.reduce(4.0)
        job.clip(1e9)
        job.update()
        job.zero_gradients()
        if scheduler is not None:
            scheduler.step()


def _scheduled(sharding: str) -> list[float]:
    """Parameters after steps under a scheduler that was made before the model was made parallel."""
    model = _linear()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    job = apply(model, optimizer, strategy(Case(sharding=sharding)))
    _train(job, 3, scheduler)
    assert optimizer.param_groups[0]["lr"] == 0.1 / 8
    values = torch.cat([value.flatten() for value in job.full_parameters().values()]).tolist()
    job.close()
    return values


def spread_experts_over_one_data_rank():
    chosen = strategy(Case())
    with pytest.raises(PlanError, match="expert = 2 does not divide the 1 data ranks"):
        apply(_linear(), None, replace(chosen, mesh=Mesh(tp=2, ep=2), batch=replace(chosen.batch, shares=(1,))))


def test_more_spread_of_experts_than_data_ranks_is_declined(workers):
    workers(2).run(spread_experts_over_one_data_rank)


def accumulate_with_statistics():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    with pytest.raises(PlanError, match=r"1 batch normalizations, 1 first, and 2 micro-batches"):
        apply(model, None, strategy(Case(micro_batches=2)))


def test_micro_batches_would_change_batch_statistics(workers):
    workers(2).run(accumulate_with_statistics)


def test_schedulers_keep_working(workers):
    plain = workers(2).run(_scheduled, "none")[0]
    for sharding in ("optimizer", "gradients", "parameters"):
        for values in workers(2).run(_scheduled, sharding):
            assert values == pytest.approx(plain, abs=1e-13)


def _frozen_and_thawed(sharding: str, transport: str) -> list[float]:
    """The first layer is frozen for two steps, then thawed, then the second is frozen."""
    model = _linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model[0].requires_grad_(False)
    job = apply(model, optimizer, strategy(Case(sharding=sharding, transport=transport)))
    _train(job, 2)
    model[0].requires_grad_(True)
    _train(job, 2)
    model[2].requires_grad_(False)
    _train(job, 2)
    values = torch.cat([value.flatten() for value in job.full_parameters().values()]).tolist()
    job.close()
    return values


def _frozen_and_thawed_alone() -> list[float]:
    model = _linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for first, second in ((False, True), (True, True), (True, False)):
        model[0].requires_grad_(first)
        model[2].requires_grad_(second)
        for step in range(2):
            shares = [torch.Generator().manual_seed(10 * step + rank) for rank in range(2)]
            x = torch.cat([torch.randn(2, 4, generator=share, dtype=torch.float64) for share in shares])
            optimizer.zero_grad()
            (model(x).square().sum() / 4).backward()
            optimizer.step()
    return torch.cat([value.detach().flatten() for value in model.parameters()]).tolist()


@pytest.mark.parametrize("transport", ["gloo", "shared_memory"])
@pytest.mark.parametrize("sharding", ["none", "optimizer", "gradients"])
def test_parameters_frozen_and_thawed_between_steps(workers, sharding, transport):
    expected = _frozen_and_thawed_alone()
    for values in workers(2).run(_frozen_and_thawed, sharding, transport):
        assert values == pytest.approx(expected, abs=1e-13)


def _frozen_too_late() -> str:
    model = _linear()
    job = apply(model, None, strategy(Case(sharding="parameters")))
    model[0].requires_grad_(False)
    with pytest.raises(PlanError) as raised:
        job.reduce(1.0)
    return str(raised.value)


def test_sharded_parameters_cannot_be_frozen_later(workers):
    assert "frozen or thawed after the model was sharded" in workers(2).run(_frozen_too_late)[0]


def _again() -> list[list[float]]:
    """One strategy after another on copies of a model, as trials do, and the last on the model itself."""
    model = _linear()
    results = []
    for sharding in ("none", "optimizer", "gradients", "parameters", "none"):
        twin = copy.deepcopy(model)
        optimizer = torch.optim.AdamW(twin.parameters(), lr=0.1)
        job = apply(twin, optimizer, strategy(Case(sharding=sharding, transport="shared_memory")))
        _train(job, 2)
        results.append(torch.cat([value.flatten() for value in job.full_parameters().values()]).tolist())
        job.close()
        assert all(tensor.grad is None for tensor in twin.parameters())
        assert not any(module.__dict__.get("forward") for module in twin.modules())
    return results


def test_strategies_one_after_another(workers):
    for results in workers(2).run(_again):
        for values in results:
            assert values == pytest.approx(results[0], abs=1e-13)


def _closed(recompute: bool) -> tuple[bool, bool]:
    """After `close` the model trains alone again, with its own forward and no exchange."""
    model = Tied().double()
    case = Case(recompute=recompute)
    job = apply(model, None, strategy(case))
    wrapped = "forward" in model.layers[0].__dict__
    job.close()
    tokens, _ = batch(case, 0)
    if dist.get_rank() == 0:
        model(tokens).sum().backward()
    return wrapped, "forward" in model.layers[0].__dict__


def test_close_takes_everything_off(workers):
    assert workers(2).run(_closed, True) == [(True, False)] * 2
    assert workers(2).run(_closed, False) == [(False, False)] * 2


def _disagreement() -> tuple[str, list[float]]:
    """What is logged, and the weights after."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("meshwright").addHandler(handler)
    model = _linear(seed=dist.get_rank())
    job = apply(model, None, strategy(Case()))
    weights = model[2].weight.flatten().tolist()
    job.close()
    apply(model, None, strategy(Case())).close()
    logging.getLogger("meshwright").removeHandler(handler)
    assert len(lines) == (dist.get_rank() == 0)
    return "".join(lines), weights


def test_workers_that_built_other_weights_are_told_and_continue_from_worker_0(workers):
    (said, first), (silence, second) = workers(2).run(_disagreement)
    assert said.startswith("workers had built 4 of 4 tensors differently (0.weight, 0.bias, 2.weight, …)")
    assert silence == ""
    assert first == second == _linear(seed=0)[2].weight.flatten().tolist()


def _learnt_temperature() -> tuple[float, list[str]]:
    """A parameter that only the optimizer knows: its gradient is summed too."""
    model = _linear()
    scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    optimizer = torch.optim.SGD([*model.parameters(), scale], lr=1.0)
    job = apply(model, optimizer, strategy(Case()))
    with job.micro_batch(last=True):
        (scale * (dist.get_rank() + 1)).backward()
    job.reduce(1.0)
    names = [name for name, gradient in job.full_gradients().items() if gradient is not None]
    job.update()
    job.close()
    return scale.item(), names


def test_parameters_that_only_the_optimizer_knows(workers):
    """2 − (1 + 2) on both workers."""
    assert workers(2).run(_learnt_temperature) == [(-1.0, ["optimizer.0.4"])] * 2


def test_more_workers_than_were_started():
    with pytest.raises(PlanError, match="2 workers, but this process runs alone"):
        apply(Tied(), None, strategy(Case()))


def _other_size() -> str:
    with pytest.raises(PlanError) as raised:
        apply(_linear(), None, strategy(Case(shares=(1, 1, 1))))
    return str(raised.value)


def test_other_workers_than_the_plan_has(workers):
    assert "3 workers in a grid of 3, but 2 workers were started" in workers(2).run(_other_size)[0]


def _whole_optimizer() -> str:
    model = _linear()
    with pytest.raises(PlanError) as raised:
        apply(model, torch.optim.LBFGS(model.parameters()), strategy(Case(sharding="optimizer")))
    return str(raised.value)


def test_an_optimizer_of_all_parameters_at_once_is_not_sharded(workers):
    assert "LBFGS cannot be sharded by optimizer" in workers(2).run(_whole_optimizer)[0]


def _uneven() -> list[str]:
    case = Case(sharding="parameters", shares=(2, 2))
    refused = []
    for change in ({"shards": (1,)}, {"shards": (1, 2), "sharding": "none"}, {"shards": (0, 0)}):
        model = Tied()
        with pytest.raises(PlanError) as raised:
            apply(model, torch.optim.SGD(model.parameters()), replace(strategy(case), **change))
        refused.append(str(raised.value).splitlines()[0])
    model = Tied()
    with pytest.raises(PlanError) as raised:
        apply(model, torch.optim.Adafactor(model.parameters()), replace(strategy(case), shards=(1, 2)))
    return [*refused, str(raised.value).splitlines()[0]]


def test_shards_that_do_not_suit(workers):
    assert workers(2).run(_uneven)[0] == [
        "shards of 1 with 2 data ranks",
        "shards of 1:2 with sharding = none",
        "shards of 0:0 with 2 data ranks",
        "shards of 1:2 with Adafactor",
    ]


def _subgroup(sharding: str, transport: str) -> list[float] | None:
    """A strategy of two workers among three."""
    group = dist.new_group([0, 1])
    if dist.get_rank() == 2:
        return None
    case = Case(sharding=sharding, transport=transport)
    model = Tied().double()
    job = apply(
        model, torch.optim.SGD(model.parameters(), lr=0.1), strategy(case), graph_blocks=model.blocks, group=group
    )
    gradients = run_step(job, case, *batch(case, 0))
    job.close()
    return [gradient.norm().item() for gradient in gradients.values() if gradient is not None]


@pytest.mark.parametrize("transport", ["gloo", "shared_memory"])
def test_on_some_of_the_workers(workers, transport):
    for sharding in ("none", "optimizer", "parameters"):
        first, second, third = workers(3).run(_subgroup, sharding, transport)
        assert third is None
        assert first == second
        assert all(math.isfinite(value) and value > 0 for value in first)


def _evaluation() -> list[float]:
    """Outside of a step, and in evaluation, nothing is exchanged: worker 1 does not take part."""
    model = Convolutional().double()
    job = apply(model, None, strategy(Case(model="convolutional")))
    values: list[float] = []
    if dist.get_rank() == 0:
        images, _ = batch(Case(model="convolutional"), 0)
        values.append(model(images).sum().item())
        model.eval()
        values.append(model(images).sum().item())
    job.close()
    return values


def test_evaluation_by_one_worker_alone(workers):
    assert [len(values) for values in workers(2).run(_evaluation)] == [2, 0]


def _too_few() -> str:
    model = nn.BatchNorm1d(2)
    job = apply(model, None, strategy(Case(shares=(1, 0))))
    with pytest.raises(ValueError, match="more than 1 value") as raised, job.micro_batch(last=True):
        model(torch.ones(1 - dist.get_rank(), 2))
    job.close()
    return str(raised.value)


def test_one_value_per_channel_is_an_error_as_on_one_device(workers):
    assert (
        workers(2).run(_too_few) == ["Expected more than 1 value per channel when training, got 1 on all workers"] * 2
    )


def _followed() -> list[float]:
    """A buffer that each forward changes by the rank: all continue from worker 0's, which does not change."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))
            self.register_buffer("count", torch.zeros(()))

        def forward(self) -> torch.Tensor:
            self.count += dist.get_rank()
            return self.weight * 1

    job = apply(Counting(), None, strategy(Case()))
    counts = []
    for _ in range(4):
        job.zero_gradients()
        with job.micro_batch(last=True):
            job.model().backward()
        job.reduce(1.0)
        job.update()
        counts.append(job.model.count.item())
    job.close()
    return counts


def test_buffers_stay_those_of_worker_0(workers):
    assert workers(2).run(_followed) == [[0.0] * 4] * 2


def _communication() -> float:
    """Worker 1 comes 0.5 s late."""
    model = _linear()
    job = apply(model, None, strategy(Case(transport="shared_memory")))
    dist.barrier()
    time.sleep(0.5 * dist.get_rank())
    job.reduce(1.0)
    waited = job.communication_seconds
    job.close()
    return waited


def test_waiting_for_the_others_is_counted(workers):
    assert workers(2).run(_communication)[0] > 0.05


def test_owners_hold_about_equal_bytes():
    """40 of 80 bytes end in the middle of the second: half of it lies before, so worker 0 has the first two."""
    assert owners([20, 30, 20, 10], (1, 1)) == [0, 0, 1, 1]
    assert owners([0, 100], (1, 1)) == [0, 1]
    assert owners([], (1, 1)) == []
    assert owners([20, 30, 20, 10], (1, 3)) == [0, 1, 1, 1]
    assert owners([10, 10, 10, 10], (3, 1)) == [0, 0, 0, 1]
