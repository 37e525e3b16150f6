"""Every schedule on every kind of model against one device, in float64."""

import pytest
from pipeline_jobs import pipelined_distances
from pipeline_models import CASES


def agrees(outcomes):
    for outcome in outcomes:
        for item in ("gradients", "parameters", "buffers", "loss"):
            assert outcome[item] < 1e-12, (item, outcomes)


def cuts_of(name, stages):
    """Stages of unequal length."""
    return CASES[name].cuts[: stages - 1]


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved", "zero_bubble"])
@pytest.mark.parametrize("name", ["decoder", "masked", "translation", "unet", "perceptron"])
def test_two_workers_with_micro_batches_of_unequal_size(workers, name, schedule):
    stages = 4 if schedule == "interleaved" else 2
    agrees(workers(2).run(pipelined_distances, name, cuts_of(name, stages), schedule, (3, 3, 2, 3, 1)))


@pytest.mark.parametrize(
    ("name", "schedule", "workers_", "stages"),
    [
        ("translation", "1f1b", 4, 4),
        ("translation", "zero_bubble", 2, 4),
        ("unet", "1f1b", 3, 3),
        ("unet", "zero_bubble", 4, 4),
        ("decoder", "zero_bubble", 3, 3),
        ("perceptron", "interleaved", 3, 6),
        ("perceptron", "gpipe", 2, 6),
    ],
)
def test_more_workers_and_stages(workers, name, schedule, workers_, stages):
    agrees(workers(workers_).run(pipelined_distances, name, cuts_of(name, stages), schedule, (2, 2, 2, 1)))


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved"])
def test_fewer_micro_batches_than_workers(workers, schedule):
    stages = 2 if schedule == "1f1b" else 4
    agrees(workers(2).run(pipelined_distances, "decoder", cuts_of("decoder", stages), schedule, (3,)))


@pytest.mark.parametrize("schedule", ["1f1b", "zero_bubble"])
def test_batch_normalization_a_frozen_layer_and_a_module_called_twice(workers, schedule):
    for cuts in (("norm",), ("again",), ("again@1",), ("last",)):
        agrees(workers(2).run(pipelined_distances, "normalized", cuts, schedule, (7,)))


def test_each_worker_has_the_memory_of_its_own_stages(workers):
    whole = workers(1).run(pipelined_distances, "perceptron", (), "1f1b", (4,))[0]["bytes"]
    parts = [outcome["bytes"] for outcome in workers(2).run(pipelined_distances, "perceptron", ("6",), "1f1b", (4,))]
    assert max(parts) < 0.6 * whole
