"""Spans of steps apart beside exact ones: what is compared, that nothing of it stays, that workers draw nearer."""

from dataclasses import asdict, replace

import pytest
import torch
import torch.distributed as dist
from run_jobs import cross_entropy, labelled, mlp, strategy
from test_run_flowing import a_job as a_split_job
from test_run_flowing import flowing

from meshwright.cost import Compression, Updates
from meshwright.run import Engine, Job
from meshwright.run.guards import SpanCheck

SIZE = 12
UPDATES = Updates(kind="local", interval=3, momentum=0.5, check_every=0)


def apart(updates, compression=None, num_workers=2):
    plan = strategy(SIZE, num_workers)
    return replace(plan, exchange=replace(plan.exchange, updates=updates, compression=compression))


def a_job():
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    return Job(model=model, optimizer=optimizer, loss=cross_entropy, allow=("compression", "staleness"))


def trained(plan, count, make=a_job):
    engine = Engine(make(), plan, rank=dist.get_rank())
    losses = [float(engine.step(labelled(SIZE, step))) for step in range(count)]
    checks = engine.new_checks()
    parameters = engine.placed.full_parameters()
    told = list(engine.told)
    engine.close()
    return losses, parameters, checks, told


def test_shortfalls_by_hand():
    """Exactly from 3 to 2, late to 2.25, alone to 2.5: a quarter of the gain is missing, which 0.5 allows."""
    check = SpanCheck(step=1, steps=2, before=3.0, exact=2.0, stale=2.25, alone=2.5, tolerance=0.5)
    assert (check.shortfall, check.is_behind) == (0.25, False)
    assert replace(check, tolerance=0.2).is_behind
    assert replace(check, alone=2.1).is_behind, "0.75 is less than nine tenths of what one worker alone gained"
    assert not replace(check, alone=2.2).is_behind
    assert replace(check, stale=float("nan")).is_behind


@pytest.mark.parametrize("compression", [None, Compression(method="int8", check_every=0)])
def test_a_check_changes_nothing_of_the_run(workers, compression):
    plain = workers(2).run(trained, apart(UPDATES, compression), 9)
    checked = workers(2).run(trained, apart(replace(UPDATES, check_every=1, tolerance=1e9), compression), 9)
    for (losses, parameters, checks, told), (wanted, expected, _, _) in zip(checked, plain, strict=True):
        assert losses == wanted
        assert all(torch.equal(parameters[name], tensor) for name, tensor in expected.items())
        assert [(check.step, check.steps) for check in checks] == [(6, 3), (9, 3)]
        assert all(not check.refined for check in checks)
        assert "of the gain may be missing" in told[0]


def exact_losses(plan, count):
    """Losses before and after steps 4 to 6 on the batch of step 4, exactly, from where two islands met."""
    engine = Engine(job := a_job(), plan, rank=dist.get_rank())
    for step in range(3):
        engine.step(labelled(SIZE, step))
    half = slice(6 * dist.get_rank(), 6 * dist.get_rank() + 6)
    first = tuple(tensor[half] for tensor in labelled(SIZE, 3))
    before = cross_entropy(job.model, first).item()
    with engine.placed.in_step():
        for step in range(3, 3 + count):
            engine.compute(engine.share(labelled(SIZE, step)))
            engine.update()
    after = cross_entropy(job.model, first).item()
    everyones = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, (before, after))
    engine.close()
    return tuple(sum(values) / len(values) for values in zip(*everyones, strict=True))


def test_the_exact_steps_are_the_whole_batchs(workers):
    """Done by hand from the same state: the mean over the islands, each with its optimizer's state and its share."""
    (before, after), *_ = workers(2).run(exact_losses, apart(UPDATES), 3)
    (_, _, (check, *_), _), _ = workers(2).run(trained, apart(replace(UPDATES, check_every=1)), 6)
    assert check.before == pytest.approx(before, abs=1e-12)
    assert check.exact == pytest.approx(after, abs=1e-12)
    assert check.exact < check.before


def test_islands_meet_more_often_where_too_much_is_lost(workers):
    """An outer rate of 40 throws the islands far beyond where they were going; alone they had gained more."""
    wild = replace(UPDATES, interval=4, rate=40.0, momentum=0.5, check_every=1)
    for _, _, checks, told in workers(2).run(trained, apart(wild), 16):
        assert checks[0].is_behind
        assert checks[0].change.startswith("the islands meet every 2 steps instead of every 4 steps")
        assert "meet every 2 steps" in told[0]
        assert {"before", "exact", "stale", "alone", "tolerance", "change"} <= set(asdict(checks[0]))


def test_more_of_a_message_is_sent_first(workers):
    sparse = Compression(method="top_k", share=0.02, block=16, check_every=0)
    plan = apart(replace(UPDATES, check_every=1, tolerance=0.0), sparse)
    for _, _, checks, _ in workers(2).run(trained, plan, 6):
        assert checks[0].change == "more of the islands' ways is sent from now on"


def test_a_pipeline_is_emptied_where_too_much_is_lost(workers):
    plan = flowing()
    assert plan.pipeline is not None
    strict = replace(plan, pipeline=replace(plan.pipeline, check_every=3, tolerance=-1e9))
    for _, _, checks, told in workers(2).run(trained, strict, 11, a_split_job):
        assert checks[0].step == 11
        assert checks[0].steps == 8
        assert checks[0].alone is None
        assert checks[0].change == "the pipeline is emptied after every step from now on"
        assert "emptied" in told[0]


def test_a_check_changes_nothing_of_a_pipeline_but_that_it_is_emptied(workers):
    plan = flowing()
    assert plan.pipeline is not None
    losses, _, _, _ = workers(2).run(trained, plan, 4, a_split_job)[0]
    checked = replace(plan, pipeline=replace(plan.pipeline, check_every=4, tolerance=1e9))
    found, _, checks, _ = workers(2).run(trained, checked, 12, a_split_job)[0]
    assert found[:4] == losses
    assert not checks[0].refined
