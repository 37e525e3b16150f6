"""Runs whose pipeline is not emptied between steps: beside replicas, saved and continued, refused where need be."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from run_jobs import cross_entropy, labelled
from torch import nn

from meshwright.cost import Batch, Mesh, Pipeline, Strategy, Updates, Worker
from meshwright.errors import PlanError
from meshwright.run import Engine, Job
from meshwright.run._checkpoint import load, save

SIZE = 12


def flowing(*, mesh=None, schedule="asynchronous", accumulation=3, **choices):
    mesh = mesh or Mesh(pp=2)
    return Strategy(
        workers=tuple(Worker(rank=rank, host="here", device="cpu", threads=1) for rank in range(mesh.num_workers)),
        mesh=mesh,
        batch=Batch(size=SIZE, shares=(1,) * mesh.num_shares, accumulation=accumulation),
        pipeline=Pipeline(schedule=schedule, cuts=("2",)),
        **choices,
    )


def a_job(*, allow=("staleness",), clip=None):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    return Job(model=model, optimizer=optimizer, loss=cross_entropy, allow=allow, clip=clip)


class Late:
    """One device whose first layer's gradients come a step late."""

    def __init__(self, job, *, late=("0.",)):
        self.job, self.late, self.waiting = job, late, {}

    def step(self, batch):
        job, model = self.job, self.job.model
        value = job.loss(model, batch)
        value.backward()
        self.update()
        return float(value.detach())

    def update(self):
        for name, tensor in self.job.model.named_parameters():
            if name.startswith(self.late):
                tensor.grad, self.waiting[name] = self.waiting.get(name), tensor.grad
        if self.job.clip is not None:
            nn.utils.clip_grad_norm_(self.job.model.parameters(), self.job.clip)
        self.job.optimizer.step()
        self.job.optimizer.zero_grad()


def apart(engine, one):
    found = engine.placed.full_parameters()
    return max(float((found[name] - tensor).detach().abs().max()) for name, tensor in one.job.model.named_parameters())


def beside_one_device(plan, clip):
    """The largest distances of losses in 5 steps, and of parameters once emptied, and 2 steps later again."""
    engine, one = Engine(a_job(clip=clip), plan, rank=dist.get_rank()), Late(a_job(clip=clip))
    losses, parameters = [], []
    for count in (5, 2):
        for step in range(count):
            batch = labelled(SIZE, step)
            losses.append(abs(float(engine.step(batch)) - one.step(batch)))
        one.update()
        parameters.append(apart(engine, one))
    engine.close()
    return max(losses), max(parameters)


@pytest.mark.parametrize(
    ("mesh", "clip"), [(Mesh(pp=2), 0.3), (Mesh(pp=2, dp_replicate=2), None), (Mesh(pp=2, tp=2), None)]
)
def test_late_updates_are_those_of_one_device(workers, mesh, clip):
    for found in workers(mesh.num_workers).run(beside_one_device, flowing(mesh=mesh), clip):
        assert max(found) < 1e-10


def saved_and_continued(folder):
    """Saved after 4 steps; gone on with one worker for 3 more."""
    engine, one = Engine(job := a_job(), flowing(), rank=dist.get_rank()), Late(a_job())
    for step in range(4):
        engine.step(labelled(SIZE, step))
        one.step(labelled(SIZE, step))
    one.update()
    save(job, engine, folder)
    engine.close()
    job = load(a_job(), None, folder)
    alone = Engine(job)
    exact = Late(one.job, late=("nothing",))
    losses = [abs(float(alone.step(labelled(SIZE, step))) - exact.step(labelled(SIZE, step))) for step in range(4, 7)]
    alone.close()
    return max(losses)


def test_a_checkpoint_has_what_was_under_way(workers, tmp_path):
    assert max(workers(2).run(saved_and_continued, str(tmp_path / "saved"))) < 1e-10


def learnt(plan, steps):
    engine = Engine(a_job(), plan, rank=dist.get_rank())
    losses = [float(engine.step(labelled(SIZE, 0))) for _ in range(steps)]
    engine.close()
    return losses[0], losses[-1]


def test_it_learns_as_an_emptied_one_does(workers):
    (first, exact), _ = workers(2).run(learnt, flowing(schedule="1f1b"), 60)
    (_, late), _ = workers(2).run(learnt, flowing(), 60)
    assert exact < 0.7 * first
    assert late < exact + 0.1 * (first - exact)


def refused(plan, allow):
    try:
        engine = Engine(a_job(allow=allow), plan, rank=dist.get_rank())
        engine.step(labelled(SIZE, 0))
        engine.close()
    except PlanError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("plan", "allow", "text"),
    [
        (flowing(), (), "not emptied between steps (schedule asynchronous), but that was not allowed"),
        (flowing(recompute=("2",)), ("staleness",), "schedule asynchronous with recompute"),
        (flowing(mesh=Mesh(pp=2, cp=2)), ("staleness",), "schedule asynchronous with context"),
        (
            flowing(mesh=Mesh(pp=2, dp_shard=2), sharding="parameters"),
            ("staleness",),
            "schedule asynchronous with sharding = parameters",
        ),
    ],
    ids=["not-allowed", "recompute", "context", "sharded"],
)
def test_what_would_mix_versions_is_refused(workers, plan, allow, text):
    for message in workers(plan.num_workers).run(refused, plan, allow):
        assert text in message


def test_islands_do_not_surround_a_pipeline(workers):
    plan = flowing(mesh=Mesh(pp=2, dp_replicate=2))
    plan = replace(plan, exchange=replace(plan.exchange, updates=Updates(kind="local", interval=2)))
    for message in workers(4).run(refused, plan, ("staleness",)):
        assert "local updates of 2 steps with a pipeline that is not emptied between steps" in message
