"""Pipelines that are not emptied between steps, against the same late updates computed one after another."""

import pytest
import torch
import torch.distributed as dist
from pipeline_jobs import Losses, Programs, micro_batches, model_of, one_device, worst
from pipeline_models import CASES

from meshwright.cost import Pipeline, delays
from meshwright.parallel.pipeline import Pipelined, Surroundings


class Late:
    """One device: each gradient is kept, and each stage's part of it given to the optimizer as late as it comes."""

    def __init__(self, model, late):
        self.model, self.late = model, late
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        self.kept = []

    def step(self, case, batches, sizes):
        loss = one_device(self.model, case, batches, sizes)
        self.kept.append({name: tensor.grad for name, tensor in self.model.named_parameters()})
        self.update(len(self.kept) - 1)
        return loss

    def update(self, now):
        for name, tensor in self.model.named_parameters():
            step = now - self.late[name]
            tensor.grad = self.kept[step][name] if 0 <= step < len(self.kept) else None
        self.optimizer.step()
        self.optimizer.zero_grad()

    def drain(self):
        for step in range(max(self.late.values())):
            self.update(len(self.kept) + step)


def updated(job, optimizer, divisor):
    factor = job.hand_over(divisor)
    for parameter in job.holdings.parameters.values():
        if parameter.grad is not None:
            parameter.grad /= factor
    optimizer.step()
    optimizer.zero_grad()


def distances(name, cuts, sizes, steps):
    """The largest distances of losses and parameters to one device's, in every step and once emptied."""
    case = CASES[name]
    model, reference = model_of(case), model_of(case)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    job = Pipelined(
        Programs(model, case), micro_batches(case, sizes, 0)[0], model=model, optimizer=optimizer,
        pipeline=Pipeline(schedule="asynchronous", cuts=tuple(cuts)), group=dist.group.WORLD,
    )  # fmt: skip
    mine = set(job.holdings.parameters)
    everyones = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, mine)
    late = delays(dist.get_world_size(), len(sizes))
    of = {key: late[rank] for rank, names in enumerate(everyones) for key in names}
    one = Late(reference, of)
    apart = {"loss": 0.0, "parameters": 0.0}

    def compare():
        found, expected = job.holdings.full_parameters(), dict(reference.named_parameters())
        apart["parameters"] = max(apart["parameters"], worst(found, expected))

    for twice in range(2):
        for step in range(steps):
            batches = micro_batches(case, sizes, 10 * twice + step)
            expected = one.step(case, batches, sizes)
            losses = Losses(sizes)
            job.compute(batches, losses.begin)
            sums = torch.tensor([losses.total, losses.weight], dtype=torch.float64)
            dist.all_reduce(sums)
            apart["loss"] = max(apart["loss"], abs(float(sums[0] / sums[1]) - expected))
            updated(job, optimizer, float(sums[1]))
            compare()
        for _ in range(job.rounds):
            job.drain(Surroundings())
            updated(job, optimizer, None)
        job.emptied()
        one.drain()
        one.kept.clear()
        compare()
    return apart, job.delay


@pytest.mark.parametrize(
    ("sizes", "steps", "late"),
    [((2, 2), 4, [1, 0]), ((3, 1, 2), 1, [1, 0]), ((3,), 3, [1, 0])],
    ids=["equal", "emptied-at-once", "one-micro-batch"],
)
def test_two_stages_are_where_late_updates_are(workers, sizes, steps, late):
    found = workers(2).run(distances, "perceptron", ("6",), sizes, steps)
    assert [each for _, each in found] == late
    for apart, _ in found:
        assert max(apart.values()) < 1e-10, apart


@pytest.mark.parametrize(
    ("name", "cuts", "sizes", "late"),
    [
        ("perceptron", ("4", "8"), (2,), [2, 1, 0]),
        ("perceptron", ("4", "8"), (1, 2), [1, 1, 0]),
        ("unet", ("bottom", "last"), (2,), [2, 1, 0]),
    ],
)
def test_three_stages_with_few_micro_batches_are_later(workers, name, cuts, sizes, late):
    found = workers(3).run(distances, name, cuts, sizes, 4)
    assert [each for _, each in found] == late
    for apart, _ in found:
        assert max(apart.values()) < 1e-10, apart


def test_how_late_each_stage_is():
    """With 4 stages: 3, 2, 1 and 0 micro-batches ahead, in steps of 1, 2 and 4."""
    assert [delays(4, number) for number in (1, 2, 4)] == [(3, 2, 1, 0), (2, 1, 1, 0), (1, 1, 1, 0)]
    assert delays(1, 4) == (0,), "one stage is never late"
