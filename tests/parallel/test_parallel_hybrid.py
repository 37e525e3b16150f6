"""Models split over several axes against one device, in float64."""

import pytest
from hybrid_jobs import Case, compare

from meshwright.cost import Mesh


def _close(outcomes: list[dict[str, float]]) -> None:
    for outcome in outcomes:
        assert outcome["gradients"] <= 1e-10
        assert outcome["norm"] <= 1e-10
        assert outcome["loss"] <= 1e-12
        assert outcome["parameters"] <= 1e-9
        assert outcome["state"] <= 1e-11
        assert outcome["nones"] == 0


@pytest.mark.parametrize("sequence", ["whole", "split"])
def test_tensor_parallel(workers, sequence):
    case = Case(mesh=Mesh(tp=2), accumulation=2, sizes=(4, 4, 3), choices=(("sequence", sequence),))
    _close(workers(2).run(compare, case))


@pytest.mark.parametrize("sharding", ["none", "optimizer", "gradients"])
def test_data_and_tensor_parallel(workers, sharding):
    axis = "dp_replicate" if sharding == "none" else "dp_shard"
    case = Case(
        mesh=Mesh(**{axis: 2}, tp=2), sharding=sharding, shares=(3, 2), accumulation=2, sizes=(5, 5, 2), weighted=True
    )
    _close(workers(4).run(compare, case))
