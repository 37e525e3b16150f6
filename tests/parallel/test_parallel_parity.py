"""Every way of running in parallel against one device, in float64."""

import pytest
from parallel_jobs import Case, compare


def _close(outcomes: list[dict[str, float]]) -> None:
    for outcome in outcomes:
        assert outcome["gradients"] < 1e-12
        assert outcome["parameters"] < 1e-12
        assert outcome["buffers"] < 1e-12
        assert outcome["norms"] < 1e-12
        assert outcome["nones"] == 0


SHARDINGS = ("none", "optimizer", "gradients", "parameters")


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_uneven_shares_missing_gradients_tied_parameters_clipping(workers, sharding, optimizer):
    _close(workers(2).run(compare, Case(sharding=sharding, optimizer=optimizer, shares=(5, 2), clip=0.5)))


@pytest.mark.parametrize("transport", ["gloo", "shared_memory"])
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_accumulation_on_three_workers(workers, sharding, transport):
    case = Case(sharding=sharding, transport=transport, shares=(4, 2, 3), micro_batches=2)
    _close(workers(3).run(compare, case))


@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("shares", [(3, 5), (6, 0)])
def test_batch_normalization_over_the_global_batch(workers, sharding, shares):
    case = Case(model="convolutional", sharding=sharding, shares=shares, transport="shared_memory")
    _close(workers(2).run(compare, case))


@pytest.mark.parametrize("sharding", ["none", "parameters"])
@pytest.mark.parametrize("model", ["tied", "convolutional"])
def test_recomputation(workers, model, sharding):
    _close(workers(2).run(compare, Case(model=model, sharding=sharding, shares=(3, 5), recompute=True)))


@pytest.mark.parametrize("sharding", ["none", "optimizer", "gradients"])
def test_a_worker_without_examples(workers, sharding):
    _close(workers(2).run(compare, Case(sharding=sharding, shares=(4, 0), transport="shared_memory")))


@pytest.mark.parametrize("sharding", ["none", "gradients"])
def test_without_overlap_in_one_bucket(workers, sharding):
    _close(workers(2).run(compare, Case(sharding=sharding, overlap=False, bucket_size=1 << 20)))


@pytest.mark.parametrize("sharding", ["optimizer", "parameters"])
def test_shards_within_replicas(workers, sharding):
    _close(workers(4).run(compare, Case(sharding=sharding, shares=(2, 1, 3, 2), replicas=2, clip=0.5)))


@pytest.mark.parametrize("sharding", SHARDINGS[1:])
def test_unequal_shards(workers, sharding):
    case = Case(sharding=sharding, shares=(4, 2, 3), shards=(5, 1, 2), micro_batches=2, clip=0.5, recompute=True)
    _close(workers(3).run(compare, case))


@pytest.mark.parametrize(("model", "transport"), [("tied", "shared_memory"), ("convolutional", "gloo")])
def test_unequal_shards_of_parameters(workers, model, transport):
    case = Case(model=model, sharding="parameters", shares=(3, 5), shards=(1, 3), transport=transport)
    outcomes = workers(2).run(compare, case)
    _close(outcomes)
    assert 2.0 < outcomes[1]["state"] / outcomes[0]["state"] < 4.0


def test_one_worker(workers):
    _close(workers(1).run(compare, Case(shares=(5,), micro_batches=2, recompute=True, clip=0.5)))


def test_sharded_state_is_made_once(workers):
    """The workers' optimizer states together hold as much as one device's; plain data parallel holds it twice."""
    whole = workers(1).run(compare, Case(shares=(8,)))[0]["state"]
    for sharding in ("optimizer", "gradients"):
        parts = [outcome["state"] for outcome in workers(2).run(compare, Case(sharding=sharding))]
        assert sum(parts) == whole
        assert max(parts) < 0.8 * whole
    assert [outcome["state"] for outcome in workers(2).run(compare, Case())] == [whole, whole]
