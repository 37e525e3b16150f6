"""Islands that train apart, against the same islands simulated one after another with torch's own outer optimizer."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from run_jobs import cross_entropy, labelled, mlp, strategy
from torch import nn

from meshwright.cost import Compression, Mesh, Pipeline, Updates, island_ranks, suited_momentum
from meshwright.errors import PlanError
from meshwright.parallel.stale._meetings import is_due
from meshwright.run import Engine, Job
from meshwright.run._checkpoint import load, save
from meshwright.run._proof import Proof
from meshwright.run._role import Role

SIZE = 12


def apart(updates, *, num_workers=2, shares=None, compression=None):
    plan = strategy(SIZE, num_workers, shares=shares)
    return replace(plan, exchange=replace(plan.exchange, updates=updates, compression=compression))


def batches(count):
    return [labelled(SIZE, seed) for seed in range(count)]


def a_job():
    torch.manual_seed(1)
    model = mlp()
    return Job(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=0.02),
        loss=cross_entropy,
        allow=("compression", "staleness"),
    )


def trained(plan, count):
    """Whole parameters after some steps, as every worker has them after a last meeting."""
    engine = Engine(job := a_job(), plan, rank=dist.get_rank())
    for batch in batches(count):
        engine.step(batch)
    before = {name: tensor.detach().clone() for name, tensor in job.model.named_parameters()}
    agreed = engine.placed.full_parameters()
    again = engine.placed.full_parameters()
    assert all(torch.equal(agreed[name], again[name]) for name in agreed)
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, agreed)
    assert all(torch.equal(agreed[name], other[name]) for other in everyone for name in agreed)
    engine.close()
    return before, agreed


class Simulated:
    """The islands one after another, the outer step by `torch.optim.SGD`."""

    def __init__(self, updates, cuts):
        self.updates, self.cuts = updates, cuts
        self.jobs = [a_job() for _ in cuts]
        self.anchor = [nn.Parameter(tensor.detach().clone()) for tensor in self.jobs[0].model.parameters()]
        self.outer = torch.optim.SGD(
            self.anchor, lr=updates.rate, momentum=updates.momentum, nesterov=updates.momentum > 0
        )
        self.sent = None

    def step(self, batch):
        for job, (start, stop) in zip(self.jobs, self.cuts, strict=True):
            part = tuple(tensor[start:stop] for tensor in batch)
            job.optimizer.zero_grad()
            job.loss(job.model, part).backward()
            job.optimizer.step()

    @torch.no_grad()
    def send(self):
        self.sent = [[tensor.detach().clone() for tensor in job.model.parameters()] for job in self.jobs]

    @torch.no_grad()
    def receive(self):
        weights = [(stop - start) / SIZE for start, stop in self.cuts]
        for place, anchor in enumerate(self.anchor):
            ways = [weight * (anchor - sent[place]) for weight, sent in zip(weights, self.sent, strict=True)]
            anchor.grad = torch.stack(ways).sum(0)
        self.outer.step()
        for job, sent in zip(self.jobs, self.sent, strict=True):
            for tensor, anchor, was in zip(job.model.parameters(), self.anchor, sent, strict=True):
                tensor.copy_(anchor + (tensor - was))


def simulated(updates, cuts, count):
    islands = Simulated(updates, cuts)
    for step, batch in enumerate(batches(count), start=1):
        islands.step(batch)
        if step % updates.interval == 0:
            islands.send()
        if updates.delay <= step and (step - updates.delay) % updates.interval == 0 and step > updates.delay:
            islands.receive()
    return islands


def furthest(found, job):
    return max(float((found[name] - tensor.detach()).abs().max()) for name, tensor in job.model.named_parameters())


@pytest.mark.parametrize(
    ("updates", "shares", "cuts"),
    [
        (Updates(kind="local", interval=3, momentum=0.5), None, [(0, 6), (6, 12)]),
        (Updates(kind="local", interval=2, momentum=0.0, rate=1.0), (3, 1), [(0, 9), (9, 12)]),
        (Updates(kind="local", interval=3, momentum=0.5, delay=2), None, [(0, 6), (6, 12)]),
    ],
    ids=["nesterov", "local-sgd-unequal", "delayed"],
)
def test_islands_are_where_the_simulation_is(workers, updates, shares, cuts):
    count = 8
    (before, _), _ = workers(2).run(trained, apart(updates, shares=shares), count)
    expected = simulated(updates, cuts, count)
    assert furthest(before, expected.jobs[0]) < 1e-12


def test_islands_of_two_workers_take_exact_steps_inside(workers):
    updates = Updates(kind="local", interval=3, momentum=0.5)
    (before, _), *_ = workers(4).run(trained, apart(updates, num_workers=4), 7)
    expected = simulated(updates, [(0, 6), (6, 12)], 7)
    assert furthest(before, expected.jobs[0]) < 1e-12


def fragments_meet_in_turn(plan, count):
    engine = Engine(job := a_job(), plan, rank=dist.get_rank())
    equal = []
    for batch in batches(count):
        engine.step(batch)
        own = [tensor.detach().clone() for tensor in job.model.parameters()]
        everyone = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, own)
        equal.append([torch.equal(mine, other) for mine, other in zip(*everyone, strict=True)])
    engine.close()
    return equal


def test_fragments_meet_one_after_another(workers):
    plan = apart(Updates(kind="local", interval=4, fragments=2))
    equal, _ = workers(2).run(fragments_meet_in_turn, plan, 4)
    assert [sum(row) for row in equal[:1]] == [0]
    first, last = equal[1], equal[3]
    assert any(first)
    assert not all(first)
    assert [not value for value in first] == last


def test_compressed_messages_bring_the_islands_to_the_same_bits(workers):
    updates = Updates(kind="local", interval=2)
    (_, exact), _ = workers(2).run(trained, apart(updates), 6)
    (_, rounded), _ = workers(2).run(trained, apart(updates, compression=Compression(method="int8")), 6)
    distance = max(float((exact[name] - rounded[name]).abs().max()) for name in exact)
    assert 0 < distance < 5e-3


def test_every_fragment_is_due_once_in_an_interval():
    updates = Updates(kind="local", interval=8, fragments=3)
    due = [[step for step in range(1, 17) if is_due(step, updates, place, count=3)] for place in range(3)]
    assert due == [[2, 10], [5, 13], [8, 16]]


def test_islands_lie_along_the_replicas():
    updates = Updates(kind="local", islands=2)
    mesh = Mesh(pp=2, dp_replicate=2, tp=2)
    assert island_ranks(mesh, updates, 0) == (0, 1, 4, 5)
    assert island_ranks(mesh, updates, 7) == (2, 3, 6, 7)
    with pytest.raises(PlanError, match="3 islands cannot be made of 2 replicas"):
        island_ranks(mesh, Updates(kind="local", islands=3), 0)


def test_momentum_grows_with_the_interval():
    assert [suited_momentum(interval) for interval in (1, 16, 64, 1000)] == [0.0, 0.5, 0.9, 0.9]


def whole_after(plan, count):
    engine = Engine(a_job(), plan, rank=dist.get_rank())
    for batch in batches(count):
        engine.step(batch)
    found = engine.placed.full_parameters()
    engine.close()
    return found


@pytest.mark.parametrize(
    ("mesh", "sharding"),
    [
        (Mesh(dp_replicate=2, dp_shard=2), "parameters"),
        (Mesh(dp_replicate=2, dp_shard=2), "gradients"),
    ],
    ids=["parameters", "gradients"],
)
def test_the_outer_state_of_shards_is_kept_where_they_are(workers, mesh, sharding):
    plan = apart(Updates(kind="local", interval=3, momentum=0.5, fragments=1), num_workers=4)
    batch = replace(plan.batch, shares=(1,) * mesh.num_shares)
    expected = simulated(plan.exchange.updates, [(0, 6), (6, 12)], 6)
    for found in workers(4).run(whole_after, replace(plan, mesh=mesh, sharding=sharding, batch=batch), 6):
        assert furthest(found, expected.jobs[0]) < 1e-12


def refused(plan):
    try:
        Engine(a_job(), plan, rank=dist.get_rank())
    except PlanError as error:
        return str(error)
    return ""


def layered_job():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    return Job(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=0.02),
        loss=cross_entropy,
        allow=("compression", "staleness"),
    )


def islands_beside_one_another(plan, count):
    """Whole parameters of islands that split the model, and their distance from islands of one worker each, by hand."""
    engine = Engine(layered_job(), plan, rank=dist.get_rank())
    updates = plan.exchange.updates
    jobs = [layered_job() for _ in range(2)]
    anchor = [nn.Parameter(tensor.detach().clone()) for tensor in jobs[0].model.parameters()]
    outer = torch.optim.SGD(anchor, lr=updates.rate, momentum=updates.momentum, nesterov=True)
    for number, batch in enumerate(batches(count), start=1):
        engine.step(batch)
        for job, part in zip(jobs, (slice(0, 6), slice(6, 12)), strict=True):
            job.optimizer.zero_grad()
            job.loss(job.model, tuple(tensor[part] for tensor in batch)).backward()
            job.optimizer.step()
        if number % updates.interval == 0:
            for place, tensor in enumerate(anchor):
                tensor.grad = sum((tensor - list(job.model.parameters())[place]).detach() / 2 for job in jobs)
            outer.step()
            with torch.no_grad():
                for job in jobs:
                    for tensor, agreed in zip(job.model.parameters(), anchor, strict=True):
                        tensor.copy_(agreed)
    checks = engine.new_checks()
    found, wanted = engine.placed.full_parameters(), dict(jobs[0].model.named_parameters())
    engine.close()
    return max(float((found[name] - tensor.detach()).abs().max()) for name, tensor in wanted.items()), len(checks)


@pytest.mark.parametrize(
    ("mesh", "choices"),
    [
        (Mesh(dp_replicate=2, tp=2), {}),
        (Mesh(dp_replicate=2, pp=2), {"pipeline": Pipeline(schedule="1f1b", cuts=("2",))}),
        (Mesh(dp_replicate=2, tp=2), {"sequence": "whole"}),
        (Mesh(dp_replicate=2, dp_shard=2, tp=2), {"sharding": "parameters"}),
    ],
    ids=["tensor", "pipeline", "checked", "shards"],
)
def test_islands_of_split_models_are_where_whole_ones_are(workers, mesh, choices, request):
    """Also beside comparisons with exact steps, which leave nothing."""
    is_checked = "checked" in request.node.callspec.id
    updates = Updates(kind="local", interval=2, momentum=0.5, check_every=int(is_checked), tolerance=1e9)
    plan = replace(apart(updates, num_workers=mesh.num_workers), mesh=mesh, **choices)
    plan = replace(plan, batch=replace(plan.batch, shares=(1,) * mesh.num_shares))
    for far, num_checks in workers(mesh.num_workers).run(islands_beside_one_another, plan, 6):
        assert far < 1e-12
        assert num_checks == 2 * is_checked


def proved(plan):
    proof = Proof(layered_job(), plan, role=Role(rank=dist.get_rank(), world_size=plan.num_workers, steps=3))
    for batch in batches(3):
        proof.collect(batch)
    return proof.conclude()


def test_islands_that_are_kept_in_step_are_proven_equal(workers):
    """Splits, gradients over the bridges and losses; that islands go their ways in between is told."""
    plan = apart(Updates(kind="local", interval=2, momentum=0.5), num_workers=4)
    split = replace(plan, mesh=Mesh(dp_replicate=2, tp=2), batch=replace(plan.batch, shares=(1, 2)))
    for chosen in (plan, split):
        for found in workers(4).run(proved, chosen):
            assert found.equal
            assert max(found.loss, found.gradient, found.parameters) < 1e-10
            assert "local updates of 2 steps" in found.notes[-1]


def test_what_split_models_cannot_do_apart_is_refused(workers):
    plan = apart(Updates(kind="asynchronous", interval=3), num_workers=4)
    plan = replace(plan, mesh=Mesh(dp_replicate=2, tp=2), batch=replace(plan.batch, shares=(1, 1)))
    for message in workers(4).run(refused, plan):
        assert "asynchronous updates of 3 steps with tensor = 2" in message
        assert "take every step together" in message


def plain_job():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Job(model=model, optimizer=optimizer, loss=cross_entropy, allow=("compression", "staleness"))


def continued(plan, after, folder):
    """Whole parameters after 4 and 4 steps, once without a break and once from a checkpoint, maybe by another plan."""
    found = []
    for begin, chosen in ((0, plan), (4, after)):
        job = load(plain_job(), None, folder) if begin else plain_job()
        engine = Engine(job, chosen, rank=dist.get_rank())
        for step in range(begin, 8):
            engine.step(labelled(SIZE, step))
            if step == 3:
                save(job, engine, folder)
        found.append(engine.placed.full_parameters())
        engine.close()
    return max(float((found[0][name] - tensor).abs().max()) for name, tensor in found[1].items())


@pytest.mark.parametrize("compression", [None, Compression(method="int8", block=16)])
def test_a_checkpoint_has_the_outer_state_and_what_was_left_out(workers, tmp_path, compression):
    plan = apart(Updates(kind="local", interval=2, momentum=0.5), compression=compression)
    # in equal parts: what an island takes back of the sum is rounded otherwise than its own part was
    most = 1e-12 if compression is None else 1e-4
    assert max(workers(2).run(continued, plan, plan, str(tmp_path / "saved"))) < most


def test_a_checkpoint_of_islands_goes_on_in_shards(workers, tmp_path):
    plan = apart(Updates(kind="local", interval=2, momentum=0.5), num_workers=4)
    shards = replace(plan, mesh=Mesh(dp_replicate=2, dp_shard=2), sharding="parameters")
    assert max(workers(4).run(continued, plan, shards, str(tmp_path / "saved"))) < 1e-12


def saved_again(plan, folder):
    """Whether a checkpoint that is saved before the first step has what the one that it began with had."""
    job = load(plain_job(), None, folder)
    before = dict(job.carried)
    engine = Engine(job, plan, rank=dist.get_rank())
    save(job, engine, f"{folder}_again")
    engine.step(labelled(SIZE, 4))
    engine.close()
    after = load(plain_job(), None, f"{folder}_again").carried
    return bool(before) and before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in after)


def test_a_checkpoint_of_split_islands_goes_on_in_whole_ones(workers, tmp_path):
    """And the other way round: the outer state lies in the same parts as the model, and is put together like it."""
    whole = apart(Updates(kind="local", interval=2, momentum=0.5), num_workers=4)
    split = replace(whole, mesh=Mesh(dp_replicate=2, tp=2), batch=replace(whole.batch, shares=(1, 1)))
    assert max(workers(4).run(continued, split, whole, str(tmp_path / "split"))) < 1e-12
    assert max(workers(4).run(continued, whole, split, str(tmp_path / "whole"))) < 1e-12
    assert all(workers(4).run(saved_again, split, str(tmp_path / "whole")))


def test_a_checkpoint_has_what_messages_of_shards_left_out(workers, tmp_path):
    """Taken back in equal parts, so that later roundings differ; without them the distance is what int8 leaves out."""
    plan = strategy(SIZE, 2, sharding="parameters")
    plan = replace(plan, exchange=replace(plan.exchange, compression=Compression(method="int4", block=16)))
    folder = str(tmp_path / "saved")
    assert max(workers(2).run(continued, plan, plan, folder)) < 0.05
    kept = load(plain_job(), None, folder).carried
    assert kept
    assert all(name.startswith("carried.shards.0.") for name in kept)
    assert max(float(tensor.abs().max()) for tensor in kept.values()) > 0
