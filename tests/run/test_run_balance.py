"""Shares that follow the workers' speed: what is decided, and that the gradient stays the one-device gradient."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from run_jobs import cross_entropy, labelled, mlp, strategy

from meshwright.run import Engine, Job
from meshwright.run import _engine as engine_file
from meshwright.run._balance import MOST_GROWTH, WINDOW, Balance


def after(balance, paces, *, size=100, steps=WINDOW):
    return [told for _ in range(steps) if (told := balance.note(paces, size=size))]


def test_a_worker_at_half_the_speed_gets_half_the_share():
    balance = Balance((1, 1, 1, 1), rank=0)
    (told,) = after(balance, (0.01, 0.01, 0.02, 0.01))
    assert balance.shares == (286, 286, 143, 286)
    assert told == (
        "meshwright: worker 2 takes 2.0 × as long for an example as the fastest; shares of the batch were "
        "25 %, 25 %, 25 %, 25 %, and are 29 %, 29 %, 14 %, 29 % now"
    )
    assert after(balance, (0.01, 0.01, 0.02, 0.01)) == []


def test_small_differences_short_windows_and_first_steps_change_nothing():
    balance = Balance((1, 1), rank=0)
    assert after(balance, (0.010, 0.011)) == []
    assert after(balance, (0.01, 0.03), steps=WINDOW - 1) == []
    balance = Balance((1, 1), rank=0)
    assert after(balance, (0.0, 0.03)) == []
    assert after(balance, (1e-5, 3e-5)) == []


def test_a_single_slow_step_changes_nothing():
    balance = Balance((1, 1), rank=0)
    assert after(balance, (0.01, 0.2), steps=1) == []
    assert after(balance, (0.01, 0.01), steps=WINDOW) == []


def test_each_worker_reports_in_its_place():
    balance = Balance((1, 1, 1), rank=1)
    balance.timed(0.6, 30)
    assert balance.report == (0.0, pytest.approx(0.02), 0.0)
    balance.timed(0.6, 0)
    assert balance.report == (0.0, 0.0, 0.0)


@given(st.lists(st.floats(1e-3, 1.0), min_size=2, max_size=6))
def test_no_share_is_empty_or_outgrows_its_memory(paces):
    balance = Balance((1,) * len(paces), rank=0)
    after(balance, tuple(paces), size=1000)
    parts = [share / sum(balance.shares) for share in balance.shares]
    assert min(balance.shares) >= 1
    assert max(parts) <= MOST_GROWTH / len(paces) + 0.01
    assert all(fast >= slow - 1e-3 for (fast, one), (slow, other) in _pairs(parts, paces) if one < other)


def _pairs(parts, paces):
    both = list(zip(parts, paces, strict=True))
    return [(one, other) for one in both for other in both]


def slowed(plan, batches):
    """Worker 1's clock runs four times as fast as it should, as if it computed that slowly."""
    rank = dist.get_rank()

    class Slow(Balance):
        def timed(self, seconds, examples):
            assert seconds > 0
            super().timed((4.0 if rank else 1.0) * examples, examples)

    before = engine_file.Balance
    engine_file.Balance = Slow
    try:
        model = mlp()
        job = Job(model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=0.02), loss=cross_entropy)
        engine = Engine(job, plan, rank=rank)
    finally:
        engine_file.Balance = before
    counts, losses = [], []
    for batch in batches:
        counts.append(sum(part.examples for part in engine.share(batch).parts))
        losses.append(engine.step(batch).item())
    parameters = engine.placed.full_parameters()
    engine.close()
    return counts, losses, parameters, engine.told


def test_shares_change_during_the_run_and_the_steps_stay_those_of_one_device(workers):
    batches = [labelled(20, seed) for seed in range(14)]
    plan = strategy(20)
    plan = replace(plan, batch=replace(plan.batch, sharing="adaptive"))
    (first, losses, parameters, told), (second, *_) = workers(2).run(slowed, plan, batches)
    assert (first[0], second[0]) == (10, 10)
    assert (first[-1], second[-1]) == (16, 4)
    assert len(told) == 1
    model = mlp()
    optimizer, expected = torch.optim.AdamW(model.parameters(), lr=0.02), []
    for batch in batches:
        optimizer.zero_grad()
        loss = cross_entropy(model, batch)
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert max(abs(found - loss) for found, loss in zip(losses, expected, strict=True)) < 1e-12
    for name, tensor in model.named_parameters():
        assert (parameters[name] - tensor.detach()).abs().max() < 1e-12
