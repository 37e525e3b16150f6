"""Sequences split over workers against one device, in float64, alone and with the other axes."""

import pytest
from hybrid_jobs import Case, compare
from test_parallel_hybrid import _close

from meshwright.cost import Mesh, Pipeline


def test_two_parts_of_every_sequence(workers):
    _close(workers(2).run(compare, Case(mesh=Mesh(cp=2), accumulation=2, sizes=(4, 4, 3))))


@pytest.mark.parametrize("sharding", ["none", "parameters"])
def test_context_and_data_parallel(workers, sharding):
    axis = "dp_replicate" if sharding == "none" else "dp_shard"
    case = Case(
        mesh=Mesh(**{axis: 2}, cp=2), sharding=sharding, shares=(3, 2), accumulation=2, sizes=(5, 5, 2), weighted=True
    )
    _close(workers(4).run(compare, case))


def test_context_and_tensor_parallel(workers):
    _close(workers(4).run(compare, Case(mesh=Mesh(cp=2, tp=2), accumulation=2, sizes=(4, 4, 3))))


def test_context_and_pipeline(workers):
    case = Case(
        mesh=Mesh(pp=2, cp=2), accumulation=2, sizes=(4, 4, 3), choices=(("pipeline", Pipeline(cuts=("layers.2",))),)
    )
    _close(workers(4).run(compare, case))
