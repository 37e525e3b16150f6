"""What every rank holds: against each worker priced by itself, and by hand where shares differ."""

import random
from dataclasses import replace

import pytest

import planning_builders as by_hand
import search_builders as build
from meshwright.cost import Batch, Pricer, Strategy, find_host
from meshwright.cost.hybrid import layout_of, sorts_of
from meshwright.plan import Goal, Pins, plan_outright, with_splits
from meshwright.plan._rank_memory import fullest_of, held_by_rank, ranks_of_layout


def _strategies() -> list[tuple[Pricer, Strategy]]:
    """The best plans of mixed clusters, with replicas or stages on kinds of their own, in shards or not."""
    found = []
    for seed in range(12):
        rng = random.Random(seed)
        graph, plain = build.random_graph(rng), build.random_cluster(rng, mixed=True)
        cluster = build.with_memory(plain, (10**11, 2 * 10**11))
        pins = Pins(workers=4, pipeline=(1, 2, None)[seed % 3], sharding=(None, "optimizer", "parameters")[seed % 2])
        pins = replace(pins, shards="1:3") if seed % 4 == 1 and pins.pipeline == 1 else pins
        plan = plan_outright(graph, cluster, Goal(pins=pins))
        found.append((Pricer(with_splits(graph), cluster), plan.strategy))
        assert held_by_rank(*found[-1]) == plan.held
    return found


def test_every_rank_is_listed_once_with_what_its_own_worker_holds() -> None:
    """Each worker priced alone: its place in the pipeline, its data rank's replica, its own device."""
    unequal = 0
    for pricer, strategy in _strategies():
        hybrid, mesh = pricer.hybrid, strategy.mesh
        layout, sorts = layout_of(strategy, hybrid.units, hybrid.hosts), sorts_of(strategy, hybrid.hosts)
        held = held_by_rank(pricer, strategy)
        assert [one.first for one in held] == [0, *(one.last + 1 for one in held[:-1])]
        assert held[-1].last == mesh.num_workers - 1
        for one in held:
            for rank in range(one.first, one.last + 1):
                replica, place = layout.replicas[sorts[mesh.share(rank)]], mesh.coordinate(rank, "pp")
                alone = hybrid.memory_of(layout, hybrid.stages(layout), replica, place)
                device = find_host(pricer.cluster, strategy.workers[rank]).device
                assert (one.memory, one.device, one.capacity) == (alone, device.name, device.memory)
        unequal += len({(one.memory.peak, one.last // (mesh.num_workers // mesh.pp)) for one in held}) > mesh.pp
        assert max(one.memory.peak / one.capacity for one in held) == pytest.approx(
            pricer.predict(strategy).memory.peak / hybrid.hosts[hybrid.tightest(layout)[1]].device.memory
        )
    assert unequal >= 4


def test_unequal_shares_on_processors_by_hand() -> None:
    """75 of 100 examples and 25: two layers save 80 kB of each, 12 MB and 4 MB; the update's temporaries take 12 MB."""
    pricer = Pricer(by_hand.multilayer(scale=20.0), by_hand.machine())
    strategy = replace(by_hand.two_workers(), batch=Batch(size=100, shares=(3, 1)))
    one, other = held_by_rank(pricer, strategy)
    assert (one.first, one.last, other.first, other.last) == (0, 0, 1, 1)
    assert (one.memory.activations, other.memory.activations) == (75 * 2 * 80_000, 0)
    assert (one.moment, other.moment) == ("backward", "update")
    assert one.memory == pricer.held_by(strategy, strategy.workers[0])
    assert other.memory == pricer.held_by(strategy, strategy.workers[1])
    assert one.capacity == other.capacity == pricer.cluster.hosts[0].device.memory // 2


def test_equal_workers_stand_in_one_line() -> None:
    pricer = Pricer(by_hand.multilayer(), by_hand.machine())
    (one,) = held_by_rank(pricer, by_hand.two_workers())
    assert (one.first, one.last) == (0, 1)


def test_data_ranks_of_a_sort_need_not_stand_together() -> None:
    """Shares of 3, 1 and 3: two sorts, three lines, the first like the last."""
    rng = random.Random(3)
    graph, cluster = with_splits(build.random_graph(rng)), by_hand.accelerators(hosts=1)
    pricer = Pricer(graph, cluster)
    plan = plan_outright(graph, cluster, Goal(pins=Pins(workers=1)))
    workers = tuple(replace(plan.strategy.workers[0], rank=rank, device=f"cuda:{rank}") for rank in range(3))
    strategy = replace(
        plan.strategy, workers=workers, mesh=replace(plan.strategy.mesh, dp_replicate=3),
        batch=Batch(size=graph.batch_size, shares=(3, 1, 3)), pipeline=None,
    )  # fmt: skip
    assert sorts_of(strategy, pricer.hybrid.hosts) == (0, 1, 0)
    first, second, third = held_by_rank(pricer, strategy)
    assert (first.last, second.first, third.first) == (0, 1, 2)
    assert first.memory == third.memory
    assert first.memory.batch > second.memory.batch
    assert fullest_of((first, second, third), 1, 2) == third


def test_a_stage_says_what_its_fullest_worker_holds() -> None:
    """Replicas of 3 and 1 examples on kinds of their own: the stage's figure is the larger one."""
    for pricer, strategy in _strategies():
        layout = layout_of(strategy, pricer.hybrid.units, pricer.hybrid.hosts)
        price = pricer.hybrid.price(layout)
        held = held_by_rank(pricer, strategy)
        each = strategy.num_workers // strategy.mesh.pp
        for place, memory in enumerate(price.memory):
            assert fullest_of(held, place * each, (place + 1) * each - 1).memory == memory


def test_a_layout_and_its_strategy_hold_the_same() -> None:
    for pricer, strategy in _strategies():
        layout = layout_of(strategy, pricer.hybrid.units, pricer.hybrid.hosts)
        if list(sorts_of(strategy, pricer.hybrid.hosts)) == sorted(sorts_of(strategy, pricer.hybrid.hosts)):
            assert ranks_of_layout(pricer.hybrid, layout) == held_by_rank(pricer, strategy)
