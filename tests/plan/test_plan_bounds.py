"""Bounds of the search against prices: no staging of a pipeline may be better than what was said to be possible."""

import random
from dataclasses import replace

import numpy as np
import pytest

import search_builders as build
from meshwright.cost import Mesh
from meshwright.cost.hybrid import HybridPricer, Layout, Least, Replica
from meshwright.plan import Goal
from meshwright.plan._layouts import divisors
from meshwright.plan.search import Aim, Frame, Search, choices_of, device_sets, limits, shapes
from meshwright.plan.search._bubble import least_shared
from meshwright.plan.search._frame import IN_SHARDS, levels
from meshwright.plan.search._rooms import Rooms
from meshwright.plan.search._work import Work

SCHEDULES = (("1f1b", 1), ("zero_bubble", 1), ("interleaved", 2), ("gpipe", 1))


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_below_its_bound(seed: int) -> None:
    """Pipelines of 2 to 4 workers over up to 9 units, cut and recomputed at random; every fourth of two kinds.

    Every second seed is of accelerators of the catalogue, whose exchanges, updates and waiting are fitted.
    """
    rng, compared = random.Random(seed), 0
    for case in range(40):
        graph, mixed = build.random_graph(rng, most_blocks=8), case % 4 == 3
        pricer = (
            build.catalogue_pricer(graph, rng, mixed=mixed) if seed % 2
            else HybridPricer(graph, build.random_cluster(rng, mixed=mixed))
        )  # fmt: skip
        search, frame = Search(pricer, Goal(), Aim()), _frame(pricer, rng)
        if frame is None:
            continue
        stages, most = search.stages(frame), limits(pricer, Goal(), frame.layout)
        rooms = Rooms(pricer, frame.layout, limits=most, recompute=None)
        weights = np.array([pricer.weight_of(frame.layout, kind) for kind in range(pricer.units.num_kinds)])
        for _ in range(6):
            price = pricer.price(_cut_at_random(pricer, frame, rng))
            (replica,) = frame.layout.replicas
            if all(items.peak <= most[kind] for items, kind in zip(price.memory, replica.kinds, strict=True)):
                compared += 1
                assert rooms.hold(frame.form, weights[None]).all()
                assert stages.bound <= price.step * (1 + 1e-7)
                assert stages.may_beat(price.step * (1 + 1e-6))
                assert stages.least(price.step) <= price.step * (1 + 1e-6)
    assert compared > 20


@pytest.mark.parametrize("fitted", [False, True])
def test_parameters_in_shards_take_no_less_than_is_said_of_all_numbers_of_them(fitted: bool) -> None:
    """Every shape of 40 random models on 2 or 3 hosts: each number of shards, inside replicas and outside."""
    compared = 0
    for seed in range(40):
        rng = random.Random(seed + 10**4 * fitted)
        graph = build.random_graph(rng)
        pricer = (
            build.catalogue_pricer(graph, rng, mixed=False) if fitted
            else HybridPricer(graph, build.random_cluster(rng))
        )  # fmt: skip
        choices, least = choices_of(pricer, Goal()), Least(pricer)
        units = tuple(np.bincount(pricer.units.kinds, minlength=pricer.units.num_kinds).tolist())
        work = Work(pricer, choices, units, least=least)
        for devices in device_sets(pricer.hosts, Goal()):
            for shape in shapes(pricer, choices, devices):
                degrees = divisors(shape.mesh.num_shares)[1:]
                listed = list(levels(pricer, shape, choices, among=IN_SHARDS))
                if not listed:
                    assert not degrees
                    continue
                shards = least.shards(replace(listed[0], mesh=shape.mesh), degrees)
                bound = work.in_shards(listed[0], shards)
                for layout in listed:
                    found = work.of(layout)
                    compared += 1
                    assert bound.work <= found.work * (1 + 1e-12)
                    assert (bound.each <= found.each * (1 + 1e-12)).all()
                    assert (bound.shares * bound.each <= found.shares * found.each * (1 + 1e-12)).all()
                    assert work.travelling(shape, shards) <= work.step_around(
                        shape.micro_batches * float(found.each @ np.array(units)) / shape.mesh.pp, shape
                    ) * (1 + 1e-12)
    assert compared > 200


def test_memory_that_no_stages_have_is_missed_before_anything_is_timed() -> None:
    """One worker, every block computed again: weights, blocks' inputs and what the rest saves, gaps of a twentieth."""
    pricer = HybridPricer(build.random_graph(random.Random(3)), build.random_cluster(random.Random(3)))
    (replica,) = replicas = (Replica(count=1, kinds=(0,), examples=2.0),)
    frame = Frame(layout=Layout(mesh=Mesh(), replicas=replicas), num_stages=1)
    weights = np.array([pricer.weight_of(frame.layout, kind) for kind in range(pricer.units.num_kinds)])
    pieces, blocks = pricer.pieces_for(frame.layout, replica, 0), pricer.units.is_block
    kept = sum(weights[kind] + (pieces.inputs if block else pieces.activations)[kind]
               for kind, block in zip(pricer.units.kinds, blocks, strict=True))  # fmt: skip
    batch = pricer.graph.batch_bytes.at(2.0)
    tensors = kept + pieces.transient + pricer.graph.buffer_size + batch
    least = 1.05 * tensors + pricer.hosts[0].device.context
    for more, fits in ((-32, False), (1, True)):
        rooms = Rooms(pricer, frame.layout, limits=(round(least) + more,), recompute=None)
        assert rooms.hold(frame.form, np.array([weights, 1e12 * weights])).tolist() == [fits, False]


def test_unequal_workers_share_by_speed() -> None:
    """Four units of 1 s, and of 3 s on the other worker: three and one. One worker of a kind more takes its part."""
    times, units = np.array([[1.0], [3.0]]), np.array([4.0])
    assert least_shared(times, np.array([1.0, 1.0]), units) == pytest.approx(3.0)
    assert least_shared(times, np.array([1.0, 3.0]), units) == pytest.approx(2.0)


def test_unequal_workers_whose_speeds_differ_by_unit() -> None:
    """Each is fast at one of two units: both are done in 1 s."""
    times, units = np.array([[1.0, 3.0], [3.0, 1.0]]), np.array([1.0, 1.0])
    assert least_shared(times, np.array([1.0, 1.0]), units) == pytest.approx(1.0)


def _frame(pricer: HybridPricer, rng: random.Random) -> Frame | None:
    schedule, chunks = rng.choice(SCHEDULES)
    workers = rng.choice((2, 4))
    if workers * chunks > len(pricer.units.kinds) or workers > sum(host.count * host.devices for host in pricer.hosts):
        return None
    count = rng.choice((1, 2, 4, 8)) if chunks == 1 else workers * rng.choice((1, 2))
    ranks = rng.choice((1, 2)) if workers == 2 else 1
    examples = pricer.graph.batch_size / count / ranks
    last = len(pricer.hosts) - 1
    kinds = (0,) * (workers // 2) + (last,) * (workers // 2)
    sharding = rng.choice(("none", "optimizer", "parameters")) if ranks > 1 else "none"
    mesh = Mesh(pp=workers, dp_shard=ranks) if sharding != "none" else Mesh(pp=workers, dp_replicate=ranks)
    layout = Layout(
        mesh=mesh, replicas=(Replica(count=ranks, kinds=kinds, examples=examples),), sharding=sharding,
        micro_batches=count, schedule=schedule,
    )  # fmt: skip
    return Frame(layout=layout, num_stages=workers * chunks)


def _cut_at_random(pricer: HybridPricer, frame: Frame, rng: random.Random) -> Layout:
    cuts = sorted(rng.sample(sorted(pricer.units.cuts), frame.num_stages - 1))
    blocks = [unit for unit, there in enumerate(pricer.units.is_block) if there]
    again = sorted(rng.sample(blocks, rng.randint(0, len(blocks))))
    return replace(frame.layout, bounds=(0, *cuts), recomputed=tuple(again))
