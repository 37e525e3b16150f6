"""Steps on several workers are the steps of one device, to the last bits of float64."""

import pytest
import torch
from run_jobs import (
    Dropping,
    Labelled,
    Normed,
    Tied,
    cross_entropy,
    cross_entropy_of_fields,
    difference,
    engine_steps,
    labelled,
    masked_cross_entropy,
    masked_tokens,
    mlp,
    strategy,
)

from meshwright.run import Engine, Job

EXACT = 1e-12


def uneven_batches(plan, options):
    batches = [labelled(size, seed) for seed, size in enumerate((10, 10, 7, 1))]
    return difference(mlp(), cross_entropy, batches, plan, **options)


@pytest.mark.parametrize(
    ("plan", "options"),
    [
        (strategy(10), {}),
        (strategy(10), {"clip": 0.05}),
        (strategy(10), {"schedule": True}),
        (strategy(10, accumulation=3), {}),
        (strategy(10, shares=(3, 1)), {}),
        (strategy(10, sharding="optimizer"), {"schedule": True}),
        (strategy(10, sharding="gradients"), {"clip": 0.05}),
        (strategy(10, sharding="parameters"), {"clip": 0.05}),
        (strategy(10, transport="shared_memory"), {}),
    ],
    ids=[
        "plain", "clipped", "scheduled", "accumulated", "unequal", "sharded-optimizer", "sharded-gradients",
        "sharded-parameters", "shared-memory",
    ],
)  # fmt: skip
def test_two_workers_with_uneven_batches_equal_one_device(workers, plan, options):
    assert max(workers(2).run(uneven_batches, plan, options)) < EXACT


def test_four_workers_with_fewer_examples_than_workers_equal_one_device(workers):
    assert max(workers(4).run(uneven_batches, strategy(10, 4), {})) < EXACT


def weighted(plan):
    torch.manual_seed(3)
    batches = [masked_tokens(size, seed) for seed, size in enumerate((8, 5, 1))]
    return difference(Tied().double(), masked_cross_entropy, batches, plan)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_masked_tokens_with_tied_weights_equal_one_device(workers, accumulation):
    assert max(workers(2).run(weighted, strategy(8, accumulation=accumulation))) < EXACT


def test_weighted_loss_accumulates_on_one_worker_too():
    assert weighted(strategy(8, 1, accumulation=3)) < EXACT


def normed(plan):
    torch.manual_seed(4)
    batches = []
    for size in (8, 5, 1):
        batches.append((torch.randn(size, 2, 6, 6).double(), torch.randint(3, (size,))))
    return difference(Normed().double(), cross_entropy, batches, plan)


def test_batch_normalization_sees_the_global_batch_even_from_a_worker_without_examples(workers):
    assert max(workers(2).run(normed, strategy(8))) < EXACT


def fields():
    values, labels = labelled(6)
    return difference(mlp(), cross_entropy_of_fields, [Labelled(values, labels)], strategy(6))


def test_a_dataclass_is_shared_out_and_its_other_fields_stay(workers):
    assert max(workers(2).run(fields)) < EXACT


def missing_gradient():
    model = Tied().double()
    before = model.unused.weight.clone()
    engine_steps(model, masked_cross_entropy, [masked_tokens(4)], strategy(4))
    return model.unused.weight.grad is None and torch.equal(model.unused.weight, before)


def test_a_parameter_without_gradient_stays_without(workers):
    assert workers(2).run(missing_gradient) == [True, True]


def dropped(seed):
    torch.manual_seed(seed)
    model = Dropping()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    masks = []
    model.layers[1].register_forward_hook(lambda _module, _inputs, output: masks.append(output == 0))
    import torch.distributed as dist

    engine = Engine(Job(model=model, optimizer=optimizer, loss=cross_entropy), strategy(4), rank=dist.get_rank())
    batch = (torch.ones(4, 5), torch.zeros(4, dtype=torch.long))
    engine.step(batch)
    outside = torch.rand(1).item()
    engine.close()
    return masks[0].int().tolist(), outside


def test_dropout_differs_between_workers_is_reproducible_and_leaves_the_scripts_numbers_alike(workers):
    (first, outside), (second, other_outside) = workers(2).run(dropped, 5)
    assert first != second
    assert outside == other_outside
    assert workers(2).run(dropped, 5) == [(first, outside), (second, other_outside)]
    assert workers(2).run(dropped, 6)[0][0] != first


def test_one_worker_without_a_plan_computes_the_same_bits():
    batches = [labelled(4, seed) for seed in range(3)]
    assert difference(mlp(), cross_entropy, batches, None, clip=0.1) == 0.0


def test_the_phases_add_up_to_the_step():
    model = mlp()
    engine = Engine(Job(model=model, optimizer=torch.optim.AdamW(model.parameters()), loss=cross_entropy))
    engine.step(labelled(4))
    times = engine.times
    assert times.step == pytest.approx(engine.stamps.duration(engine.clock))
    assert min(times.forward, times.backward, times.optimizer) > 0
    assert times.recompute == times.waiting == 0
