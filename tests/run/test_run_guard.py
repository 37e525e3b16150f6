"""Compressed steps beside exact ones: what is compared, that nothing of it stays, that more is sent where needed."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from run_jobs import Tied, strategy

from meshwright.cost import Compression
from meshwright.run import Engine, Job
from meshwright.run.guards import StepCheck

BATCH = 6


def _loss(model, tokens):
    return torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(1, 1).flatten())


def _engine(compression: Compression | None, sharding: str = "none") -> Engine:
    torch.manual_seed(0)
    model = Tied()
    job = Job(model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2), loss=_loss, allow=("compression",))
    plan = strategy(BATCH, dist.get_world_size(), sharding=sharding)
    plan = replace(plan, exchange=replace(plan.exchange, compression=compression))
    return Engine(job, plan, rank=dist.get_rank())


def _run(compression: Compression | None, steps: int, sharding: str = "none") -> dict:
    engine = _engine(compression, sharding)
    losses = []
    for step in range(steps):
        batch = torch.randint(11, (BATCH, 4), generator=torch.Generator().manual_seed(step))
        losses.append(engine.step(batch).item())
    parameters = torch.cat([item.flatten() for item in engine.placed.full_parameters().values()])
    found = {"losses": losses, "parameters": parameters, "told": list(engine.told)}
    found["checks"], found["asked again"] = engine.new_checks(), engine.new_checks()
    found["steps"] = engine.steps
    engine.close()
    return found


def test_the_shortfall_is_a_share_of_the_exact_gain():
    """From 3.0 to 2.0 exactly, to 2.25 compressed: a quarter of the gain is missing."""
    check = StepCheck(step=1, before=3.0, exact=2.0, compressed=2.25, refined=False)
    assert check.shortfall == 0.25
    assert StepCheck(step=1, before=3.0, exact=3.5, compressed=4.0, refined=False).shortfall == 0.0


@pytest.mark.parametrize("sharding", ["none", "optimizer"])
def test_a_check_changes_nothing_of_the_run(workers, sharding):
    """Checked at every second step or never: the same losses and parameters, bit by bit."""
    quiet = Compression(method="int8", block=64, check_every=0)
    checked = replace(quiet, check_every=2, tolerance=1e9)
    plain = workers(2).run(_run, quiet, 6, sharding)[0]
    for found in workers(2).run(_run, checked, 6, sharding):
        assert found["losses"] == plain["losses"]
        assert torch.equal(found["parameters"], plain["parameters"])
        assert [check.step for check in found["checks"]] == [2, 4, 6]
        assert found["steps"] == 6
        assert found["asked again"] == []


def test_the_exact_step_is_the_uncompressed_run(workers):
    """The first step from the same state, once exact: the next loss of the uncompressed run is what the check found."""
    exact = workers(2).run(_after_one_step, None)[0]
    (check,) = workers(2).run(_run, Compression(method="top_k", share=0.02, block=16, check_every=1), 1)[0]["checks"]
    assert check.exact == pytest.approx(exact, abs=1e-6)
    assert check.compressed > check.exact


def _after_one_step(_: None) -> float:
    engine = _engine(None)
    batch = torch.randint(11, (BATCH, 4), generator=torch.Generator().manual_seed(0))
    engine.step(batch)
    loss = engine.step(batch).item()
    engine.close()
    return loss


def test_more_is_sent_where_the_loss_falls_behind(workers):
    """Of 2 % of the gradients 4 %, 8 %, … are sent until the steps gain as much as exact ones."""
    sparse = Compression(method="top_k", share=0.02, block=16, check_every=1, tolerance=0.05)
    for found in workers(2).run(_run, sparse, 12):
        assert any(check.refined for check in found["checks"])
        assert any("more of the gradients is sent from now on" in sentence for sentence in found["told"])
        assert found["checks"][-1].shortfall < found["checks"][0].shortfall
