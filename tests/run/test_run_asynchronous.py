"""Workers that wait for nobody: a server between them, or the same memory."""

import copy
import os
import time
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from run_jobs import cross_entropy, labelled, mlp, strategy
from torch import nn

from meshwright.cost import Compression, Updates
from meshwright.errors import PlanError
from meshwright.parallel.stale import Server
from meshwright.run import Engine, Job

SIZE = 12


def apart(kind, num_workers=2, *, shares=None, compression=None, **options):
    plan = strategy(SIZE, num_workers, shares=shares)
    options = {"rate": 1.0, "momentum": 0.0, "islands": num_workers, **options}
    updates = Updates(kind=kind, **options)
    return replace(plan, exchange=replace(plan.exchange, updates=updates, compression=compression))


def a_job(learning_rate=0.1):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    return Job(model=model, optimizer=optimizer, loss=cross_entropy, allow=("staleness",))


def everyones(value):
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)


def one_pauses(plan, folder):
    """Worker 1 does its third step only when worker 0 has done all of its ten."""
    rank = dist.get_rank()
    engine = Engine(a_job(), plan, rank=rank)
    for step in range(10):
        if rank == 1 and step == 2:
            wait_for(f"{folder}/done-0")
        engine.step(labelled(SIZE, step))
    open(f"{folder}/done-{rank}", "w").close()
    agreed = engine.placed.full_parameters()
    again = engine.placed.full_parameters()
    engine.close()
    same = all(torch.equal(agreed[name], other[name]) for other in everyones(agreed) for name in agreed)
    return same, all(torch.equal(agreed[name], again[name]) for name in agreed)


@pytest.mark.parametrize("kind", ["asynchronous", "shared"])
def test_a_worker_that_stands_still_keeps_nobody_from_stepping(workers, tmp_path, kind):
    found = workers(2).run(one_pauses, apart(kind, interval=2), str(tmp_path))
    assert found == [(True, True)] * 2


def thrice():
    """Every worker has the same examples, so that it does not matter in which order they come."""
    return tuple(torch.cat([tensor] * 3) for tensor in labelled(SIZE // 3, 0))


def loss_after(plan, count):
    engine = Engine(job := a_job(0.05), plan, rank=dist.get_rank())
    batch = thrice()
    before = float(cross_entropy(job.model, batch).detach())
    for _ in range(count):
        engine.step(batch)
    engine.placed.full_parameters()
    after = float(cross_entropy(job.model, batch).detach())
    engine.close()
    return before, after


@pytest.mark.parametrize("kind", ["asynchronous", "shared"])
def test_three_workers_learn_as_one_does(workers, kind):
    """To first order the updates of all workers are the exact ones: with small steps the losses end near."""
    job, batch = a_job(0.05), thrice()
    for _ in range(400):
        job.optimizer.zero_grad()
        cross_entropy(job.model, batch).backward()
        job.optimizer.step()
    alone = float(cross_entropy(job.model, batch).detach())
    before, after = workers(3).run(loss_after, apart(kind, 3, interval=2, staleness=100), 400)[0]
    assert alone < 0.8 * before
    assert abs(after - alone) < 0.25 * (before - alone)


class Table(nn.Module):
    """A large table of which a batch touches few rows, with sparse gradients."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(200, 4, sparse=True)

    def forward(self, rows):
        return self.table(rows).sum(-1)


def untouched_rows_stay(plan):
    torch.manual_seed(5)
    model = Table().double()
    start = model.table.weight.detach().clone()
    job = Job(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        loss=lambda model, batch: F.mse_loss(model(batch[0]), batch[1]),
        allow=("staleness",),
    )
    engine = Engine(job, plan, rank=dist.get_rank())
    rows = torch.arange(SIZE) * 10
    engine.step((rows, torch.zeros(SIZE, dtype=torch.float64)))
    final = engine.placed.full_parameters()["table.weight"]
    engine.close()
    sums = start[rows].sum(-1, keepdim=True)
    expected = start.clone()
    expected[rows] -= 2 * sums / SIZE
    return float((final - expected).abs().max())


def test_rows_that_never_meet_are_updated_exactly(workers):
    assert max(workers(2).run(untouched_rows_stay, apart("shared"))) < 1e-12


def adaptive(plan, kind, rows_of):
    """One worker after another does its part of a step; how far the result is from one device's."""
    torch.manual_seed(5)
    table = Table().double() if kind is torch.optim.SparseAdam else nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double()
    alone = copy.deepcopy(table)
    job = Job(model=table, optimizer=kind(table.parameters(), lr=0.1), loss=squares, allow=("staleness",))
    engine = Engine(job, plan, rank=dist.get_rank())
    optimizer = kind(alone.parameters(), lr=0.1)
    for step in range(3):
        batch = rows_of(step)
        share = engine.share(batch)
        engine.compute(share)
        for rank in range(2):
            dist.barrier()
            if rank == dist.get_rank():
                engine.update()
        dist.barrier()
        optimizer.zero_grad()
        squares(alone, batch).backward()
        optimizer.step()
    final = engine.placed.full_parameters()
    engine.close()
    return max(float((final[name] - tensor).detach().abs().max()) for name, tensor in alone.named_parameters())


def squares(model, batch):
    return model(batch).square().mean()


def the_same_examples_twice(step):
    torch.manual_seed(step)
    return torch.randn(SIZE // 2, 4, dtype=torch.float64).repeat(2, 1)


def rows_apart(step):
    del step
    return torch.arange(SIZE) * 10


def test_adaptive_steps_of_all_workers_make_one(workers):
    """With equal gradients, each worker's step is half of one device's; unscaled they would be 0.1 apart at once."""
    assert max(workers(2).run(adaptive, apart("shared"), torch.optim.Adam, the_same_examples_twice)) < 1e-9
    assert max(workers(2).run(adaptive, apart("shared"), torch.optim.AdamW, the_same_examples_twice)) < 1e-3


def test_rows_of_one_worker_get_whole_adaptive_steps(workers):
    """Sparse gradients of rows that never meet: what one device does, to Adam's small divisor."""
    assert max(workers(2).run(adaptive, apart("shared"), torch.optim.SparseAdam, rows_apart)) < 1e-6


def unrated(plan):
    class Fixed(torch.optim.Optimizer):
        def step(self):
            for group in self.param_groups:
                for tensor in group["params"]:
                    tensor.data.sub_(tensor.grad)

    model = mlp()
    job = Job(model=model, optimizer=Fixed(model.parameters(), {}), loss=cross_entropy, allow=("staleness",))
    try:
        Engine(job, plan, rank=dist.get_rank())
    except PlanError as error:
        return str(error)
    return ""


def test_an_optimizer_without_a_rate_is_refused(workers):
    assert "Fixed without a learning rate" in workers(2).run(unrated, apart("shared"))[0]


def test_the_server_averages_ways_by_their_weights():
    """Two islands from 0: one goes to 1, the other to 3; with weights 0.75 and 0.25 they meet at 1.5."""
    server = Server(torch.zeros(1), Updates(kind="asynchronous", rate=1.0, momentum=0.0), weights=(0.75, 0.25))
    assert server.hand_over(0, torch.tensor([-1.0])).item() == pytest.approx(0.75)
    # the second way began at 0, where the first has moved on by 0.75 since: -3 + 0.5 * 3 * 0.75 = -1.875
    assert server.hand_over(1, torch.tensor([-3.0])).item() == pytest.approx(0.75 + 0.25 * 1.875)
    assert server.look(0).item() == pytest.approx(0.75 + 0.25 * 1.875)


def test_a_way_that_comes_late_counts_for_less():
    updates = Updates(kind="asynchronous", rate=1.0, momentum=0.0, staleness=2)
    server = Server(torch.zeros(1), updates, weights=(0.5, 0.5))
    for _ in range(4):
        server.hand_over(0, torch.zeros(1))
    assert server.hand_over(1, torch.tensor([-1.0])).item() == pytest.approx(0.5 * 2 / 4)


def test_momentum_is_added_once_a_round():
    server = Server(torch.zeros(1), Updates(kind="asynchronous", rate=0.5, momentum=0.5), weights=(0.5, 0.5))
    assert server.hand_over(0, torch.tensor([-2.0])).item() == pytest.approx(0.5)
    # the second: way -2 + 0.5 * 2 * 0.5 = -1.5, times 0.5 is -0.75; then momentum -(1 + 0.75), times 0.25
    assert server.hand_over(1, torch.tensor([-2.0])).item() == pytest.approx(0.5 + 0.375 + 0.25 * 1.75)


def refused(plan):
    try:
        Engine(a_job(), plan, rank=dist.get_rank())
    except PlanError as error:
        return str(error)
    return ""


def test_what_cannot_be_answered_one_by_one_is_refused(workers):
    (message, *_) = workers(4).run(refused, apart("asynchronous", 4, islands=2))
    assert "asynchronous updates with islands of 2 workers" in message
    (message, *_) = workers(2).run(refused, apart("shared", compression=Compression(method="int8")))
    assert "shared" in message or "compresses" in message


def not_allowed(plan):
    job = replace(a_job(), allow=())
    try:
        Engine(job, plan, rank=dist.get_rank())
    except PlanError as error:
        return str(error)
    return ""


def test_training_apart_has_to_be_allowed_by_name(workers):
    (message, *_) = workers(2).run(not_allowed, apart("asynchronous"))
    assert "the plan has workers train apart (asynchronous updates of 16 steps), but that was not allowed" in message
    assert "--allow staleness" in message
