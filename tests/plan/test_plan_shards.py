"""Shards of unequal size: how even they can be, and the search's choice against a grid of all of them."""

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest

import search_builders as build
from meshwright.cost import Strategy
from meshwright.cost.hybrid import HybridPricer, Layout, layout_of, strategy_of
from meshwright.cost.memory import usable_memory
from meshwright.documents import from_mapping, to_mapping
from meshwright.plan import Goal, Pins
from meshwright.plan._places import workers_of
from meshwright.plan._shard_sizes import in_whole_numbers, levelled
from meshwright.plan.search import Aim, Search, choices_of, device_sets, framed, levels, limits, schedules, shapes
from meshwright.plan.search._shards import may_differ

CASES = 48


def test_as_even_as_there_is_room_for():
    counts = np.array([2.0, 1.0, 1.0])
    assert levelled(np.array([0.4, 0.4, 0.4]), counts).tolist() == [0.25] * 3
    assert levelled(np.array([0.1, 0.3, 0.9]), counts) == pytest.approx([0.1, 0.3, 0.5])
    assert levelled(np.array([0.0, 0.2, 0.8]), counts) == pytest.approx([0.0, 0.2, 0.8])


def test_in_the_fewest_whole_numbers():
    one_each = np.ones(2)
    assert in_whole_numbers(np.array([0.25, 0.75]), one_each) == (1, 3)
    assert in_whole_numbers(np.array([0.25, 0.75]), one_each, most=np.array([0.25, 0.8])) == (1, 3)
    below = in_whole_numbers(np.array([0.301, 0.699]), one_each, most=np.array([0.301, 0.9]))
    assert below is not None
    assert 0.29 < below[0] / sum(below) <= 0.301


def _case(seed: int) -> tuple[HybridPricer, Goal] | None:
    """Two kinds of devices, one with less memory than its part of the best layout takes, the other with more."""
    rng = random.Random(500 + seed)
    plain, graph = build.random_cluster(rng, mixed=True), build.random_graph(rng, most_blocks=2)
    pins = Pins(pipeline=1, tensor=1, workers=4, sharding=rng.choice(("optimizer", "parameters", None)))
    large = build.with_memory(plain, (10**12, 10**12))
    best = Search(HybridPricer(graph, large), Goal(pins=replace(pins, shards="equal")), Aim()).run().best
    if best is None or best.layout.sharding == "none":
        return None
    needed = best.price.peak / usable_memory(large.hosts[0].device) * 10**12
    sizes = [round(needed * rng.uniform(0.55, 1.0)), round(needed * rng.uniform(1.0, 1.6))]
    rng.shuffle(sizes)
    return HybridPricer(graph, build.with_memory(plain, (sizes[0], sizes[1]))), Goal(pins=pins)


def _of_grid(pricer: HybridPricer, goal: Goal) -> Iterator[float]:
    """Step of every layout that fits, with shards of 1 : 9 to 9 : 1."""
    choices = choices_of(pricer, goal)
    blocks = [unit for unit, is_block in enumerate(pricer.units.is_block) if is_block]
    sets = [chosen for number in range(len(blocks) + 1) for chosen in combinations(blocks, number)]
    for devices in device_sets(pricer.hosts, goal):
        for shape in shapes(pricer, choices, devices):
            for level in levels(pricer, shape, choices):
                for sizes in _sizes(level):
                    for schedule, stages in schedules(level, choices):
                        layout = framed(replace(level, shards=sizes), schedule, stages).layout
                        for again in sets:
                            whole = replace(layout, recomputed=again)
                            if build.fits(pricer, whole, limits(pricer, goal, whole)):
                                yield pricer.price(whole).step


def _sizes(layout: Layout) -> list[tuple[int, ...]]:
    if not may_differ(layout):
        return [()]
    own = {kinds: place for place, kinds in enumerate(dict.fromkeys(one.kinds for one in layout.replicas))}
    each = [pair for pair in product(range(1, 10), repeat=2) if sum(pair) == 10]
    return [(), *(tuple(pair[own[one.kinds]] for one in layout.replicas) for pair in each)]


def test_no_shards_of_a_grid_are_better() -> None:
    """Where any of them fit, shards are found that do, within a hundredth of the fastest; unequal where that pays."""
    unequal = 0
    for pricer, goal in filter(None, map(_case, range(CASES))):
        best = Search(pricer, goal, Aim()).run().best
        least = min(_of_grid(pricer, goal), default=float("inf"))
        assert (best.price.step if best is not None else float("inf")) <= 1.01 * least
        if best is not None and best.layout.shards:
            unequal += 1
            _check_strategy(pricer, best.layout)
    assert unequal >= 5


def _check_strategy(pricer: HybridPricer, layout: Layout) -> None:
    """The strategy has a layout's shards, in a document too, and its price."""
    strategy = strategy_of(layout, pricer.graph, pricer.units, workers_of(layout, pricer.hosts))
    assert len(strategy.shards) == strategy.mesh.num_shares
    again = from_mapping(Strategy, to_mapping(strategy), where="here")
    assert again == strategy
    same = layout_of(again, pricer.units, pricer.hosts)
    assert pricer.price(same).step == pytest.approx(pricer.price(layout).step, rel=1e-9)
