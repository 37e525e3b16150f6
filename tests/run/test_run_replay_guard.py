"""Workers that wait for nobody beside exact steps: what is compared, that nothing stays, that no call hangs."""

from uuid import uuid4

import pytest
import torch
import torch.distributed as dist
from run_jobs import cross_entropy, labelled
from test_run_asynchronous import SIZE, a_job, apart

from meshwright.parallel.stale._assembly import Assembly
from meshwright.run import Engine

KINDS = pytest.mark.parametrize("kind", ["asynchronous", "shared"])


def checked(kind, tolerance, **options):
    return apart(kind, **{"check_every": 1, "tolerance": tolerance, "interval": 4, **options})


def together(plan, count, extra=0):
    """Steps one by one on all workers, so that a call reaches all of them at the same step; worker 0 goes on longer."""
    engine = Engine(a_job(), plan, rank=dist.get_rank())
    for step in range(count):
        engine.step(labelled(SIZE, step))
        dist.barrier()
    for step in range(extra if dist.get_rank() == 0 else 0):
        engine.step(labelled(SIZE, step))
    final = engine.placed.full_parameters()
    told, checks, roams = engine.told, engine.new_checks(), engine.placed.roams
    engine.close()
    return checks, final, told, roams


@KINDS
def test_spans_are_compared_with_exact_ones(workers, kind):
    """Called at step 4, heard at step 8; the examples of steps 9 to 12 are gone through twice."""
    (ours, _, told, roams), (theirs, *_) = workers(2).run(together, checked(kind, 1e9), 13)
    (check,), (other,) = ours, theirs
    assert (check.step, check.steps, check.refined, roams) == (12, 8, False, True)
    assert check == other
    assert max(check.exact, check.stale, check.alone) < check.before
    assert "8 steps to step 12 gained" in told[0]


@KINDS
def test_workers_with_steps_left_are_not_kept_from_them_by_those_without(workers, kind):
    """The last comparison leaves all in step; worker 1 then has 3 steps less, and joins the others' with nothing."""
    plan = checked(kind, -1e9, interval=1)
    found = workers(2).run(together, plan, 13, 3)
    assert found[0][0][0].change == "all workers take exact steps together from now on, as fast as the slowest"
    assert [roams for *_, roams in found] == [False, False]
    assert all(torch.equal(found[0][1][name], tensor) for name, tensor in found[1][1].items())


def test_a_server_is_asked_more_often_and_bounds_more_tightly(workers):
    for checks, *_ in workers(2).run(together, checked("asynchronous", -1e9), 13):
        assert checks[0].change.startswith("a worker hands over every 2 instead of every 4 steps, and what is later")
        assert "than 2 instead of 4 others" in checks[0].change


def in_step_and_undone(plan, count):
    """The distance of steps in step from one device's, and of what stays of steps that are undone."""
    engine = Engine(job := a_job(), plan, rank=dist.get_rank())
    placed, twin = engine.placed, a_job()
    start = placed.full_parameters()
    with placed.undone():
        engine.step(labelled(SIZE, 7))
        engine.step(labelled(SIZE, 8))
        placed.settle()
        moved = placed._inner.full_parameters()
        dist.barrier()
        with torch.no_grad():
            for name, parameter in job.model.named_parameters():
                parameter.copy_(start[name])
    dist.barrier()
    engine.steps += 1
    left = placed.full_parameters()
    with placed.undone(), placed.in_step():
        for step in range(count):
            engine.compute(engine.share(labelled(SIZE, step)))
            engine.update()
            twin.optimizer.zero_grad()
            cross_entropy(twin.model, labelled(SIZE, step)).backward()
            twin.optimizer.step()
        exact = {name: tensor.detach().clone() for name, tensor in job.model.named_parameters()}
    engine.close()
    wanted = dict(twin.model.named_parameters())
    return tuple(
        max(float((ours[name] - theirs[name]).detach().abs().max()) for name in start)
        for ours, theirs in ((exact, wanted), (left, start), (moved, start))
    )


@KINDS
def test_exact_steps_are_one_devices_and_tried_ones_leave_nothing(workers, kind):
    for exact, left, moved in workers(2).run(in_step_and_undone, checked(kind, 1e9, check_every=0), 3):
        assert exact < 1e-12
        assert left == 0
        assert moved > 0


def called(name):
    """First while worker 1 waits for worker 0, then while both go on."""
    rank = dist.get_rank()
    assembly = Assembly(name, size=2)
    if rank == 1:
        with assembly.away():
            dist.barrier()
            dist.barrier()
    else:
        dist.barrier()
        assembly.call()
        dist.barrier()
    declined = assembly.come()
    dist.barrier()
    if rank == 0:
        assembly.call()
        assembly.call()
    dist.barrier()
    came = assembly.come()
    return declined, came, assembly.is_called()


def test_who_waits_declines_a_call(workers):
    assert workers(2).run(called, uuid4().hex) == [(False, True, False)] * 2


def called_before_waiting(name):
    """Worker 1 hears of the call only when it has begun to wait."""
    assembly = Assembly(name, size=2)
    if dist.get_rank() == 0:
        assembly.call()
    dist.barrier()
    if dist.get_rank() == 1:
        with assembly.away():
            dist.barrier()
        return assembly.come()
    came = assembly.come()
    dist.barrier()
    return came


def test_who_begins_to_wait_declines_what_was_called(workers):
    assert workers(2).run(called_before_waiting, uuid4().hex) == [False, False]
