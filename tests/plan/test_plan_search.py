"""The search against looking at everything, on random small cases; the cover of memory against all subsets."""

import random
from itertools import product

import pytest

import search_builders as build
from meshwright.cost import Mesh
from meshwright.cost.hybrid import HybridPricer, Layout, Replica
from meshwright.hardware import parse_cluster
from meshwright.plan import Goal, Pins
from meshwright.plan.search import Aim, Search, limits
from meshwright.plan.search._cover import Choice, cheapest_cover

CASES_PER_TEST = 20
OBJECTIVES = ("time", "cost", "energy", "memory")


@pytest.mark.parametrize("batch", range(12))
def test_equal_to_looking_at_everything(batch: int) -> None:
    """240 cases of one kind of device: stages, recomputation, degrees and sharding together."""
    for case in range(CASES_PER_TEST):
        rng = random.Random(1000 * batch + case)
        pricer = HybridPricer(build.random_graph(rng), build.random_cluster(rng))
        goal = Goal(pins=_pins(rng, most=2))
        aim = Aim(minimize=OBJECTIVES[case % 4] if case % 3 == 0 else "time")
        _compare(pricer, goal, aim)


@pytest.mark.parametrize("batch", range(3))
def test_equal_on_mixed_hardware(batch: int) -> None:
    """60 cases of two kinds: unequal stages, and unequal shares of the batch."""
    for case in range(CASES_PER_TEST):
        rng = random.Random(9000 + 1000 * batch + case)
        pricer = HybridPricer(build.random_graph(rng, most_blocks=2), build.random_cluster(rng, mixed=True))
        goal = Goal(pins=_pins(rng, most=4))
        _compare(pricer, goal, Aim())


def test_limits_are_kept() -> None:
    """The cheapest layout within a time that only some layouts keep."""
    kept = 0
    for case in range(20):
        rng = random.Random(77000 + case)
        pricer = HybridPricer(build.random_graph(rng), build.random_cluster(rng))
        goal = Goal(pins=_pins(rng, most=2))
        fastest = Search(pricer, goal, Aim()).run().best
        if fastest is None:
            continue
        aim = Aim(minimize="cost", longest=fastest.price.step * 1.2)
        found = _compare(pricer, goal, aim)
        kept += found is not None
    assert kept > 5


def test_a_limit_above_the_devices_memory_limits_nothing() -> None:
    """Half of 80 GiB is kept to; all of it or more leaves what predictions of peaks can be depended on."""
    graph = build.random_graph(random.Random(1))
    pricer = HybridPricer(graph, parse_cluster("h100:8"))
    layout = Layout(mesh=Mesh(), replicas=(Replica(count=1, kinds=(0,), examples=1.0),))
    usual, whole = limits(pricer, Goal(), layout), pricer.hosts[0].device.memory
    assert usual[0] < whole
    assert limits(pricer, Goal(memory_limit=whole // 2), layout) == (whole // 2,)
    assert (
        limits(pricer, Goal(memory_limit=whole), layout)
        == limits(pricer, Goal(memory_limit=2 * whole), layout)
        == usual
    )


def test_cheapest_cover_among_all() -> None:
    """60 random cases of one to three kinds; `saved` of what is chosen less the largest chosen one's activations."""
    rng = random.Random(5)
    for _ in range(60):
        options = [
            Choice(available=rng.randint(0, 4), saved=rng.uniform(1, 5), cost=rng.choice((1.0, rng.uniform(1, 5))),
                   whole=rng.uniform(1, 3))
            for _ in range(rng.randint(1, 3))
        ]  # fmt: skip
        missing = rng.uniform(-1, 20)
        found = cheapest_cover(options, missing)
        covers = [counts for counts in product(*(range(option.available + 1) for option in options))
                  if _covers(options, counts, missing)]  # fmt: skip
        if found is None:
            assert covers == []
            continue
        assert _covers(options, found, missing)
        assert _cost(options, found) == pytest.approx(min(_cost(options, counts) for counts in covers))


def _covers(options: list[Choice], counts: tuple[int, ...], missing: float) -> bool:
    whole = max((option.whole for option, count in zip(options, counts, strict=True) if count), default=0.0)
    saved = sum(option.saved * count for option, count in zip(options, counts, strict=True))
    return saved - whole >= missing - 1e-9


def _cost(options: list[Choice], counts: tuple[int, ...]) -> float:
    return sum(option.cost * count for option, count in zip(options, counts, strict=True))


def _pins(rng: random.Random, *, most: int) -> Pins:
    """One to `most` workers, and now and then another choice."""
    extra: dict = rng.choice(
        ({}, {}, {"sharding": "none"}, {"sharding": "parameters"}, {"recompute": "none"}, {"schedule": "zero_bubble"},
         {"accumulation": 4}, {"pipeline": 2}, {"tensor": 2})
    )  # fmt: skip
    workers = rng.choice((1, most)) if not {"schedule", "pipeline", "tensor", "sharding"} & set(extra) else most
    return Pins(workers=workers, **extra)


def _compare(pricer: HybridPricer, goal: Goal, aim: Aim) -> object:
    result = Search(pricer, goal, aim).run()
    subsets = goal.pins.recompute is None
    expected = build.best_of_everything(pricer, goal, aim, subsets=subsets)
    value = aim.value(result.best.price) if result.best is not None else float("inf")
    assert value == pytest.approx(expected, rel=1e-7)
    assert result.gap == 0.0
    return result.best
