"""Schedules that halve or interleave stages, beside data parallelism, shards and recomputation, against one device."""

import pytest
from hybrid_jobs import Case, compare

from meshwright.cost import Mesh, Pipeline

CUTS = {"zero_bubble": ("layers.1",), "interleaved": ("layers.0", "layers.1", "norm")}


def close(outcomes):
    for outcome in outcomes:
        assert all(value < 1e-12 for value in outcome.values()), outcome


def pipelined(schedule):
    return (("pipeline", Pipeline(schedule=schedule, cuts=CUTS[schedule])),)


@pytest.mark.parametrize("schedule", CUTS)
@pytest.mark.parametrize("sharding", ["none", "gradients", "parameters"])
def test_beside_data_parallelism(workers, schedule, sharding):
    mesh = Mesh(pp=2, dp_replicate=2) if sharding == "none" else Mesh(pp=2, dp_shard=2)
    case = Case(mesh=mesh, sharding=sharding, shares=(4, 2), accumulation=3, sizes=(6, 5), choices=pipelined(schedule))
    close(workers(4).run(compare, case))


@pytest.mark.parametrize("schedule", CUTS)
def test_blocks_that_are_computed_again(workers, schedule):
    case = Case(mesh=Mesh(pp=2), shares=(6,), accumulation=3, recompute=True, choices=pipelined(schedule))
    close(workers(2).run(compare, case))


@pytest.mark.parametrize("schedule", CUTS)
def test_a_pipeline_without_examples_in_a_step(workers, schedule):
    mesh = Mesh(pp=2, dp_replicate=2)
    case = Case(mesh=mesh, shares=(1, 1), accumulation=2, sizes=(2, 1, 2), choices=pipelined(schedule))
    close(workers(4).run(compare, case))


@pytest.mark.parametrize("schedule", CUTS)
def test_beside_tensor_parallelism(workers, schedule):
    case = Case(mesh=Mesh(pp=2, tp=2), shares=(6,), accumulation=3, sizes=(6, 4), choices=pipelined(schedule))
    close(workers(4).run(compare, case))
