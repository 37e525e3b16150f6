"""Models split over several axes against one device, in float64."""

import pytest
from hybrid_jobs import Case, compare

from meshwright.cost import Mesh, Pipeline


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


def _stages(schedule: str, *cuts: str) -> tuple[tuple[str, Pipeline], ...]:
    return (("pipeline", Pipeline(schedule=schedule, cuts=cuts)),)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zero_bubble"])
def test_pipeline(workers, schedule):
    case = Case(mesh=Mesh(pp=2), accumulation=4, shares=(8,), sizes=(8, 7, 3), choices=_stages(schedule, "layers.1"))
    _close(workers(2).run(compare, case))


def test_interleaved_stages_with_weights(workers):
    cuts = ("layers.0", "layers.1", "norm")
    case = Case(mesh=Mesh(pp=2), accumulation=4, shares=(4,), weighted=True, choices=_stages("interleaved", *cuts))
    _close(workers(2).run(compare, case))


@pytest.mark.parametrize("sharding", ["none", "optimizer", "gradients", "parameters"])
def test_data_and_pipeline_parallel(workers, sharding):
    axis = "dp_replicate" if sharding == "none" else "dp_shard"
    case = Case(
        mesh=Mesh(pp=2, **{axis: 2}),
        sharding=sharding,
        shares=(4, 2),
        accumulation=2,
        sizes=(6, 5, 6),
        choices=_stages("1f1b", "layers.1"),
    )
    _close(workers(4).run(compare, case))


def test_sharded_parameters_and_tensor_parallel(workers):
    case = Case(mesh=Mesh(dp_shard=2, tp=2), sharding="parameters", shares=(3, 2), accumulation=2, sizes=(5, 5, 2, 5))
    _close(workers(4).run(compare, case))


@pytest.mark.parametrize("sharding", ["optimizer", "parameters"])
def test_unequal_shards_of_stages(workers, sharding):
    choices = (*_stages("1f1b", "layers.1"), ("shards", (1, 3)))
    case = Case(
        mesh=Mesh(pp=2, dp_shard=2), sharding=sharding, shares=(3, 2), accumulation=2, sizes=(5, 4), recompute=True,
        choices=choices,
    )  # fmt: skip
    _close(workers(4).run(compare, case))


def test_pipeline_and_tensor_parallel(workers):
    case = Case(
        mesh=Mesh(pp=2, tp=2), accumulation=2, sizes=(4, 3, 4), choices=_stages("1f1b", "layers.1"), weighted=True
    )
    _close(workers(4).run(compare, case))


def test_pipeline_shards_and_tensor_parallel_on_eight(workers):
    case = Case(
        mesh=Mesh(pp=2, dp_shard=2, tp=2),
        sharding="parameters",
        shares=(3, 2),
        accumulation=2,
        sizes=(5, 4),
        choices=_stages("1f1b", "layers.1"),
    )
    _close(workers(8).run(compare, case))


def test_cuts_that_the_strategy_leaves_open(workers):
    case = Case(mesh=Mesh(pp=2), accumulation=2, choices=(("pipeline", Pipeline(schedule="interleaved")),))
    _close(workers(2).run(compare, case))


@pytest.mark.parametrize("sharding", ["none", "parameters"])
def test_recomputation_in_stages(workers, sharding):
    axis = "dp_replicate" if sharding == "none" else "dp_shard"
    case = Case(
        mesh=Mesh(pp=2, **{axis: 2}),
        sharding=sharding,
        shares=(4, 2),
        accumulation=2,
        sizes=(6, 5),
        recompute=True,
        choices=_stages("1f1b", "layers.1"),
    )
    _close(workers(4).run(compare, case))


def test_recomputation_of_split_blocks(workers):
    case = Case(mesh=Mesh(tp=2), accumulation=2, sizes=(4, 3), recompute=True, choices=(("sequence", "split"),))
    _close(workers(2).run(compare, case))


@pytest.mark.parametrize(
    ("mesh", "sharding"),
    [(Mesh(dp_replicate=2, tp=2), "none"), (Mesh(dp_shard=2, pp=2), "parameters")],
    ids=["tensor", "pipeline"],
)
def test_batch_normalization_over_the_global_batch(workers, mesh, sharding):
    choices = _stages("1f1b", "body.3") if mesh.pp > 1 else ()
    case = Case(model="convolutional", mesh=mesh, sharding=sharding, shares=(5, 3), sizes=(8, 7, 1), choices=choices)
    _close(workers(4).run(compare, case))
