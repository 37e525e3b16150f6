"""A heap that keeps what a step frees has to have room for its gaps."""

import random
from dataclasses import replace

import pytest

import search_builders as build
from meshwright.cost import Kernels, Mesh
from meshwright.cost.hybrid import HybridPricer, Layout, Replica
from meshwright.plan import Pins
from meshwright.plan._heap_room import with_heap_room


@pytest.fixture
def pricer() -> HybridPricer:
    """One device that holds the model."""
    rng = random.Random(3)
    return HybridPricer(build.random_graph(rng), build.random_cluster(rng))


def test_memory_is_given_back_where_what_comes_and_goes_does_not_fit_twice(pricer: HybridPricer) -> None:
    kept = Layout(
        mesh=Mesh(), replicas=(Replica(count=1, kinds=(0,), examples=1.0),), kernels=Kernels(allocator="retained")
    )
    memory = pricer.predict(kept).memory
    freed = memory.activations + memory.gradients + memory.transient + memory.communication
    assert freed > 0
    roomy = memory.peak + freed
    assert with_heap_room(pricer, kept, Pins(), limit=roomy) is kept
    assert with_heap_room(pricer, kept, Pins(allocator="retained"), limit=roomy - 1) is kept
    given = with_heap_room(pricer, kept, Pins(), limit=roomy - 1)
    assert given == replace(kept, kernels=Kernels(allocator="default"))
