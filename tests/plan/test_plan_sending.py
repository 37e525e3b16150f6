"""Gradients in fewer bits on hardware that is not here: what they cost by hand, and where a search takes them."""

import random
from collections import Counter
from dataclasses import replace

import pytest

import search_builders as build
from meshwright.cost import Compression, Exchange, Mesh, Precision, Pricer, steps_over_exact
from meshwright.cost.hybrid import HybridPricer, Layout, Replica
from meshwright.graph import Graph
from meshwright.hardware import Cluster, parse_cluster
from meshwright.plan import Goal, Pins, explain, plan_outright, read_plan, with_splits, write_plan
from meshwright.plan.search import Aim, Search, choices_of, device_sets, frames, keeps_all, shapes

LOSSY = ("precision", "compression")
HALF, INT8 = Precision(reduction="bfloat16"), Exchange(transport="nccl", compression=Compression(method="int8"))
SHARE = 0.25390625  # 8 bits, and 8 bytes for each block of 512 elements


def _case(seed: int = 1, *, hosts: int = 2, devices: int = 1, network: float = 1e6) -> tuple[Graph, Cluster]:
    """Devices that copy at known rates; a network slow enough that nothing else counts."""
    rng = random.Random(seed)
    graph, cluster = build.random_graph(rng), build.random_cluster(rng)
    host = replace(cluster.hosts[0], count=hosts, devices=devices)
    host = replace(host, device=replace(host.device, memory=10**11))
    near, far = cluster.links
    far = replace(far, bandwidth=network, latency=0.0)
    return graph, replace(cluster, hosts=(host,), links=(replace(near, bandwidth=1e12, latency=0.0), far))


def _layout(shares: int, **choices: object) -> Layout:
    return Layout(
        mesh=Mesh(dp_replicate=shares), replicas=(Replica(count=shares, kinds=(0,), examples=1.0),), **choices
    )


def _sum(pricer: HybridPricer, layout: Layout) -> float:
    return sum(item.duration for item in pricer.price(layout).collectives if item.axis == "data")


def test_two_workers_send_each_other_all_of_it() -> None:
    pricer = HybridPricer(*_case())
    size = 4 * pricer.whole.trainable_elements
    assert _sum(pricer, _layout(2)) == pytest.approx(size / 1e6)
    assert _sum(pricer, _layout(2, precision=HALF)) == pytest.approx(size / 2 / 1e6)
    assert _sum(pricer, _layout(2, exchange=INT8)) == pytest.approx(SHARE * size / 1e6)


def test_parts_leave_a_host_once_for_every_device() -> None:
    """Two hosts of four: a ring crosses with 2 · 7/8 at the host's rate, parts for all with 7/8 at a fourth of it."""
    pricer = HybridPricer(*_case(devices=4))
    size = 4 * pricer.whole.trainable_elements
    assert _sum(pricer, _layout(8)) == pytest.approx(2 * 7 / 8 * size / 1e6)
    assert _sum(pricer, _layout(8, precision=HALF)) == pytest.approx((4 + 1) * 7 / 8 * size / 2 / 1e6)
    assert _sum(pricer, _layout(8, exchange=INT8)) == pytest.approx((4 + 1) * 7 / 8 * SHARE * size / 1e6)


def test_data_ranks_with_pipelines_between_them_meet_over_the_network() -> None:
    """Two replicas of two stages of a sequence in two parts, a host each: pairs of a host meet pairs of the other."""
    pricer = HybridPricer(*_case(devices=4))
    replicas = (Replica(count=2, kinds=(0, 0), examples=1.0),)
    layout = Layout(
        mesh=Mesh(pp=2, dp_replicate=2, cp=2),
        replicas=replicas,
        bounds=(0, 1),
        order=("dp_replicate", "dp_shard", "pp", "cp", "tp"),
    )
    found = pricer.data.synchronised(layout, 1e6, 0.0, 1e6, window=0.0, copying=1e12).collectives
    assert found[0].duration == pytest.approx(2 * 3 / 4 * 1e6 / (1e6 * 2 / 4))


def test_encoding_is_waited_for_and_what_is_left_out_is_kept() -> None:
    """Over links that take no time: 2.5 copies of what was carried, 3.3 to encode, three messages of 2 to decode."""
    graph, cluster = _case(network=1e30)
    links = tuple(replace(link, bandwidth=1e30, latency=0.0) for link in cluster.links)
    pricer = HybridPricer(graph, replace(cluster, links=links))
    size = 4 * pricer.whole.trainable_elements
    device = cluster.hosts[0].device
    copying = next(row.bandwidth for row in device.operation_rates if row.kind == "copy" and row.variant == "default")
    exact, encoded = pricer.price(_layout(2)), pricer.price(_layout(2, exchange=INT8))
    assert encoded.step - exact.step == pytest.approx((2.5 + 3.3 + 3 * 2.0) * 2 * size / copying)
    assert encoded.peak - exact.peak == pytest.approx(size, rel=0.2)  # the allocator's share on it


def test_shards_travel_in_fewer_bits() -> None:
    """Gathered twice in 8 bits and scattered once in 4."""
    pricer = HybridPricer(*_case())
    mesh = Mesh(dp_shard=2)
    exchange = Exchange(transport="nccl", compression=Compression(method="int4"))
    exact = replace(_layout(2), mesh=mesh, sharding="parameters")
    size = 4 * pricer.whole.trainable_elements
    times = [{item.name: item.duration for item in pricer.price(layout).collectives}
             for layout in (exact, replace(exact, exchange=exchange))]  # fmt: skip
    assert times[0] == pytest.approx({"all_gather": size / 1e6, "reduce_scatter": size / 2 / 1e6})
    assert times[1] == pytest.approx(
        {"all_gather": SHARE * size / 1e6, "reduce_scatter": (0.125 + 4 / 2048) * size / 2 / 1e6}
    )


@pytest.mark.parametrize("allow", [("precision",), ("compression",), ("staleness",), (*LOSSY, "staleness")])
def test_equal_to_looking_at_everything_over_slow_links(allow: tuple[str, ...]) -> None:
    """12 cases each, half of them without a pipeline: the best of all, and what is allowed is taken in some."""
    taken: Counter[str] = Counter()
    for case in range(12):
        rng = random.Random(300 + case)
        graph, cluster = build.random_graph(rng, most_blocks=2), build.random_cluster(rng)
        links = tuple(replace(link, bandwidth=link.bandwidth / 100) for link in cluster.links)
        pricer = HybridPricer(graph, replace(cluster, hosts=(replace(cluster.hosts[0], count=2),), links=links))
        goal = Goal(pins=Pins(workers=2, pipeline=1 if case % 2 else None), allow=allow)
        result = Search(pricer, goal, Aim()).run()
        value = Aim().value(result.best.price) if result.best is not None else float("inf")
        assert value == pytest.approx(build.best_of_everything(pricer, goal, Aim()), rel=1e-7)
        assert result.gap == 0.0
        if result.best is not None:
            layout = result.best.layout
            taken[layout.precision.reduction] += 1
            taken["compressed" if layout.exchange.compression else "whole"] += 1
            taken["apart" if layout.exchange.updates else "together"] += 1
    assert taken[{"precision": "bfloat16", "compression": "compressed", "staleness": "apart"}[allow[-1]]] > 0


def _sent(goal: Goal) -> set[tuple[str, bool, str, str]]:
    """Sharding, whether the model is split, and what gradients are sent as, of every frame."""
    pricer = HybridPricer(*_case(devices=2))
    choices = choices_of(pricer, goal)
    found = set()
    for devices in device_sets(pricer.hosts, goal):
        for shape in shapes(pricer, choices, devices):
            for frame in frames(pricer, shape, choices):
                layout = frame.layout
                choice = layout.exchange.compression
                found.add(
                    (layout.sharding, layout.mesh.splits_the_model, layout.precision.reduction,
                     choice.method if choice else "none")
                )  # fmt: skip
    return found


def test_nothing_is_lossy_unless_it_is_allowed() -> None:
    assert {(reduction, method) for _, _, reduction, method in _sent(Goal())} == {("as_written", "none")}


def test_only_what_the_axes_go_with_is_offered() -> None:
    found = _sent(Goal(allow=LOSSY))
    rounded = {(sharding, split) for sharding, split, reduction, _ in found if reduction == "bfloat16"}
    assert rounded == {(level, split) for level in ("none", "optimizer", "gradients") for split in (False, True)}
    compressed = {(sharding, split) for sharding, split, _, method in found if method == "int8"}
    assert compressed == {(level, False) for level in ("none", "optimizer", "gradients", "parameters")}
    assert not any(reduction == "bfloat16" and method == "int8" for _, _, reduction, method in found)


def test_what_is_pinned_is_all_that_is_looked_at() -> None:
    found = _sent(Goal(pins=Pins(workers=4, compression="powersgd"), allow=LOSSY))
    assert {(sharding, split, method) for sharding, split, _, method in found} == {
        (level, False, "powersgd") for level in ("none", "optimizer", "gradients")
    }
    assert {
        reduction for _, _, reduction, _ in _sent(Goal(pins=Pins(workers=4, reduction="float16"), allow=LOSSY))
    } == {"float16"}


def test_late_updates_are_looked_at_where_nothing_stands_against_them() -> None:
    """Neither beside islands nor with parameters in shards; nothing is computed again, and a loss takes longer."""
    pricer = HybridPricer(*_case(devices=2))
    goal = Goal(pins=Pins(workers=4, pipeline=2), allow=("staleness",))
    choices = choices_of(pricer, goal)
    (devices,) = device_sets(pricer.hosts, goal)
    late = [frame for shape in shapes(pricer, choices, devices) for frame in frames(pricer, shape, choices)
            if frame.layout.schedule == "asynchronous"]  # fmt: skip
    assert {frame.layout.sharding for frame in late} == {"none", "optimizer", "gradients"}
    assert all(frame.layout.exchange.updates is None and keeps_all(frame.layout) for frame in late)
    assert late[0].layout.steps_over_exact == pytest.approx(1.17)


def test_what_it_buys_is_told_and_written_down(tmp_path) -> None:
    """Two hosts of the catalogue with a device each, 1 Gbit/s between them."""
    graph = replace(build.random_graph(random.Random(4)), batch_size=64)
    cluster = parse_cluster("a100:1x2")
    links = tuple(replace(link, bandwidth=0.125e9) if link.tier == "network" else link for link in cluster.links)
    cluster = replace(cluster, links=links)
    pins = Pins(workers=2, tensor=1, pipeline=1)
    exact = plan_outright(graph, cluster, Goal(pins=pins))
    lossy = plan_outright(graph, cluster, Goal(pins=pins, allow=("compression",)))
    apart = plan_outright(graph, cluster, Goal(pins=pins, allow=(*LOSSY, "staleness")))
    assert lossy.prediction.time.step < exact.prediction.time.step
    assert lossy.strategy.exchange.compression is not None
    assert lossy.flips[0].startswith("compression=none: ")
    assert steps_over_exact(apart.strategy) * apart.prediction.time.step < lossy.prediction.time.step
    assert "updates=every_step" in apart.flips[0]
    assert "islands of" in apart.binding
    assert any("islands do not know" in line for line in explain(apart).convergence)
    for plan in (lossy, apart):
        write_plan(plan, tmp_path / "plan.toml")
        assert read_plan(tmp_path / "plan.toml").strategy == plan.strategy
        assert Pricer(with_splits(graph), cluster).predict(plan.strategy).time == plan.prediction.time


def test_what_is_allowed_and_does_not_go_with_a_layout_is_told() -> None:
    graph, cluster = _case(devices=2, network=1e12)
    pins = Pins(workers=4, tensor=2, data=2, sharding="none")
    plan = plan_outright(graph, cluster, Goal(pins=pins, allow=("compression",)))
    assert any("compression does not go with tensor" in line and "checkpoints" in line for line in plan.flips)
