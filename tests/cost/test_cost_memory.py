"""Peak memory of a worker, item by item."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

import planning_builders as build
from meshwright.cost import Exchange, Kernels, MemoryBreakdown, Mesh, predict
from meshwright.cost._memory import saved_peak
from meshwright.cost._workload import Workload
from meshwright.hardware import Correction

FUSED = Kernels(optimizer="fused")


def _memory(graph=None, strategy=None) -> MemoryBreakdown:
    graph = graph or build.multilayer()
    return predict(graph, build.machine(), strategy or build.one_worker(batch=graph.batch_size)).memory


def test_the_update_is_the_peak_of_a_model_with_small_activations() -> None:
    """2 layers: parameters 8 MB, gradients 8 MB, state 16 MB, batch 0.4 MB, context 200 MB; AdamW's three temporaries
    of the largest parameter are 12 MB. Of the 20 MB that come and go a tenth is lost in gaps and as much is packed."""
    memory = _memory()
    assert memory == MemoryBreakdown(
        context=200_000_000, parameters=8_000_000, gradients=8_000_000, optimizer=16_000_000, transient=12_000_000,
        batch=400_000, allocator=22_000_000,
    )  # fmt: skip
    assert memory.peak == 266_400_000


def test_activations_shrink_while_gradients_grow() -> None:
    """2 layers saving 10 MB each (2500 examples · 4 kB). When the first gradient (4 MB) is complete, the last layer's
    activation has just been used: 20 MB + 4 MB then; later 10 MB + 8 MB."""
    graph = build.multilayer(batch=2500)
    memory = _memory(graph, build.one_worker(batch=2500, kernels=FUSED))
    assert (memory.activations, memory.gradients) == (20_000_000, 4_000_000)


def test_accumulation_divides_activations_and_keeps_gradients() -> None:
    """5 micro-batches of 500: 4 MB of activations beside all 8 MB of gradients."""
    graph = build.multilayer(batch=2500)
    memory = _memory(graph, build.one_worker(batch=2500, accumulation=5, kernels=FUSED))
    assert (memory.activations, memory.gradients) == (4_000_000, 8_000_000)


def test_recomputed_blocks_keep_their_input_and_one_block_at_a_time() -> None:
    """Each block saves one activation only, its input, so that nothing is dropped; the working set is one block's."""
    graph = build.multilayer(batch=2500)
    strategy = build.one_worker(batch=2500, kernels=FUSED, recompute=("layers.0", "layers.1"))
    memory = _memory(graph, strategy)
    assert memory.activations == 20_000_000
    assert memory.transient == 10_000_000


@pytest.mark.parametrize(
    ("sharding", "expected"),
    [
        ("none", (8_000_000, 8_000_000, 16_000_000)),
        ("optimizer", (8_000_000, 8_000_000, 8_000_000)),
        ("gradients", (8_000_000, 4_000_000, 8_000_000)),
        ("parameters", (4_000_000, 4_000_000, 8_000_000)),
    ],
)
def test_each_level_shards_one_thing_more(sharding: str, expected: tuple[int, int, int]) -> None:
    """Parameters, gradients and state of 8, 8 and 16 MB among 2 workers."""
    mesh = Mesh(dp_replicate=2) if sharding == "none" else Mesh(dp_shard=2)
    memory = _memory(strategy=build.two_workers(mesh=mesh, sharding=sharding))
    assert (memory.parameters, memory.gradients, memory.optimizer) == expected


def test_a_correction_scales_every_item() -> None:
    graph, machine, strategy = build.multilayer(), build.machine(), build.one_worker()
    plain = predict(graph, machine, strategy).memory
    corrected = predict(graph, machine, strategy, correction=Correction(memory=1.5)).memory
    assert corrected.peak == pytest.approx(1.5 * plain.peak)


@given(batch=st.integers(2, 5000), accumulation=st.sampled_from([1, 2]))
def test_items_add_up_and_two_workers_never_need_more_for_activations(batch: int, accumulation: int) -> None:
    """Compared where gradients are whole in both, so that the peak is at the start of the backward."""
    graph = build.multilayer(batch=batch, layers=3)
    one = _memory(graph, build.one_worker(batch=batch, accumulation=accumulation, kernels=FUSED))
    assert sum(getattr(one, item.name) for item in fields(one)) == one.peak
    workload = Workload(graph)
    alone, shared = (
        saved_peak(workload, examples, strategy, gradients=workload.gradient_size).activations
        for examples, strategy in (
            (batch / 2, build.one_worker(batch=batch, accumulation=2)),
            (batch / 4, build.two_workers(batch=batch, accumulation=2)),
        )
    )
    assert shared <= alone


def test_gradients_that_are_sent_in_place_are_there_from_the_start() -> None:
    """Two workers of 1250 examples: 10 MB of activations and all 8 MB of gradients; through shared memory each sees
    half of the other's gradients as well."""
    graph = build.multilayer(batch=2500)
    for transport, seen in (("gloo", 0), ("shared_memory", 4_000_000)):
        memory = _memory(graph, build.two_workers(batch=2500, kernels=FUSED, exchange=Exchange(transport=transport)))
        assert (memory.activations, memory.gradients, memory.communication) == (10_000_000, 8_000_000, seen)
