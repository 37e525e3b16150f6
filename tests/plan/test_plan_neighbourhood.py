"""What a search leaves: better neighbours, and what is best by another measure."""

import random
from dataclasses import replace

import pytest

import search_builders as build
from meshwright.cost.hybrid import HybridPricer
from meshwright.hardware import parse_cluster
from meshwright.plan import Goal, Pins
from meshwright.plan._neighbourhood import best_of_neighbours, found_among, whole_front
from meshwright.plan.search import Aim, Search


def test_a_better_neighbour_takes_the_place_of_what_was_found() -> None:
    """Searches stopped at one micro-batch: what they end with has no neighbour that is better by a thousandth."""
    moved = 0
    for seed in range(6):
        rng = random.Random(seed)
        graph, cluster = build.random_graph(rng), build.with_memory(build.random_cluster(rng), (10**11,))
        pricer = HybridPricer(graph, cluster)
        alone = Search(pricer, Goal(pins=Pins(pipeline=2, accumulation=1)), Aim()).run()
        every = Search(pricer, Goal(), Aim()).run()
        assert alone.best is not None
        assert every.best is not None
        first, best = alone.best.price.step, every.best.price.step
        result, beside = best_of_neighbours(pricer, Goal(), Aim(), replace(alone, gap=1 - best / first))
        assert result.best is not None
        moved += result.best.price.step < first
        assert result.best.price.step <= first
        assert result.best.price.step * (1 - result.gap) == pytest.approx(best)
        assert result.front[0].price == result.best.price
        assert all(one.price.step > 0.999 * result.best.price.step for one in found_among(beside))
        again, _ = best_of_neighbours(pricer, Goal(), Aim(), every)
        assert again.best == every.best
    assert moved > 0


def test_the_front_has_what_is_cheap() -> None:
    """On 8 accelerators: the fastest first, none beaten by another, and one device for the least money."""
    graph = build.random_graph(random.Random(1))
    pricer = HybridPricer(graph, parse_cluster("h100:8"))
    result = Search(pricer, Goal(), Aim()).run()
    assert result.best is not None
    front = whole_front(pricer, Goal(), Aim(), result, [])
    assert front[0].price == result.best.price
    for one in front:
        assert not any(
            other.price.step < one.price.step and other.price.money < one.price.money
            and other.price.peak < one.price.peak for other in front
        )  # fmt: skip
    single = Search(pricer, Goal(pins=Pins(workers=1)), Aim()).run().best
    assert single is not None
    assert min(one.price.money for one in front) <= single.price.money
    pinned = whole_front(pricer, Goal(pins=Pins(workers=8)), Aim(), result, [])
    assert {one.layout.mesh.num_workers for one in pinned} == {result.best.layout.mesh.num_workers}
