"""What departures from exact steps do to convergence, counted and told."""

from dataclasses import replace

import pytest

from meshwright.cost import (
    Batch,
    Compression,
    Exchange,
    Mesh,
    Pipeline,
    Precision,
    Strategy,
    Updates,
    Worker,
    convergence,
    steps_over_exact,
)


def strategy(mesh, **choices):
    count = mesh.num_workers
    return Strategy(
        workers=tuple(Worker(rank=rank, host="here", device="cpu", threads=1) for rank in range(count)),
        mesh=mesh,
        batch=Batch(size=8, shares=(1,) * mesh.num_shares, accumulation=2),
        **choices,
    )


def apart(kind, islands, **options):
    updates = Updates(kind=kind, islands=islands, **options)
    return strategy(Mesh(dp_replicate=islands), exchange=Exchange(updates=updates))


def test_exact_steps_lose_nothing():
    assert steps_over_exact(strategy(Mesh(dp_replicate=2))) == 1
    assert list(convergence(strategy(Mesh(dp_replicate=2)))) == []


@pytest.mark.parametrize(("islands", "factor"), [(2, 1.06), (4, 1.31), (8, 1.56)])
def test_more_workers_apart_take_more_steps(islands, factor):
    assert steps_over_exact(apart("local", islands)) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("local", "islands do not know each other's last 16 steps; 1.06 times the steps"),
        ("asynchronous", "up to 16 steps old; what comes later than 4 others counts for less; 1.29 times"),
        ("shared", "what the 1 other workers write meanwhile"),
    ],
)
def test_staleness_and_its_watch_are_told(kind, words):
    (told,) = convergence(apart(kind, 2))
    assert words in told
    assert "compared with exact steps every 128 meetings, and if over 50% of the gain is missing" in told
    (told,) = convergence(apart(kind, 2, check_every=0))
    assert told.endswith("never compared with exact steps")


def test_every_stage_of_a_pipeline_that_is_not_emptied_is_named():
    """Three stages and two micro-batches: the first is two ahead, which is a step; the last is never late."""
    flowing = strategy(Mesh(pp=3), pipeline=Pipeline(schedule="asynchronous", cuts=("1", "2")))
    (told,) = convergence(flowing)
    assert told.startswith("gradients come late by steps: stage 1 1, stage 2 1, stage 3 0; ")
    assert steps_over_exact(flowing) == pytest.approx(1.17 + 0.64 * 0.58496, abs=1e-4)


def test_what_is_left_out_or_rounded_is_told():
    lossy = strategy(
        Mesh(dp_replicate=2),
        exchange=Exchange(compression=Compression(method="powersgd", rank=2)),
        precision=Precision(compute="bfloat16", reduction="bfloat16"),
    )
    compressed, rounded, computed = convergence(lossy)
    assert "powersgd rank 2: what a step leaves out" in compressed
    assert "rounded to bfloat16" in rounded
    assert "compute in bfloat16" in computed
    assert steps_over_exact(replace(lossy, precision=Precision())) == 1
