"""The order of the axes on the devices: what is searched against all orders one by one, places, pins and words."""

import random
from collections import Counter
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import pytest
from test_plan_golden_large import LLAMA_8B

import search_builders as build
from meshwright.cost import Mesh
from meshwright.cost.hybrid import (
    ANY_ORDER,
    USUAL_ORDER,
    HybridPricer,
    Layout,
    Order,
    Replica,
    layout_of,
    normal,
    order_of,
    strategy_of,
    strides,
    suits,
)
from meshwright.errors import PlanError
from meshwright.graph import ContextSplit, ExpertSplit, Graph, Linear, SplitExchange
from meshwright.hardware import Link, parse_cluster
from meshwright.plan import Goal, Pins, explain, hosts_of, plan_outright, rank_at, read_plan, write_plan
from meshwright.plan._axis_order import check_order, pin_of, worded
from meshwright.plan._axis_order import order_of as pinned_order
from meshwright.plan._places import workers_of
from meshwright.plan.explanation import summary
from meshwright.plan.explanation._comparison import by_axis
from meshwright.plan.search import Aim, Search
from meshwright.plan.search._orders import orders, orders_of_shards
from meshwright.report._layout_view import grid
from published_model import Writing, captured

CASES = 10
EVERY = tuple(
    order for order in permutations(USUAL_ORDER) if abs(order.index("dp_shard") - order.index("dp_replicate")) == 1
)


def with_context(graph: Graph, rng: random.Random) -> Graph:
    """The same with sequences that may be split, whose keys and values go round, and with experts."""
    assert graph.splits is not None
    assert graph.splits.tensor is not None
    size = Linear(per_example=rng.uniform(0.1, 30) * 1e6)
    ring = tuple(
        SplitExchange(name="send", phase=item.phase, module=item.module, size=size, repeats=item.repeats)
        for item in graph.splits.tensor.whole
    )
    context = ContextSplit(degrees=(2,), operations=graph.splits.tensor.operations, ring=ring)
    tensor = graph.splits.tensor
    expert = ExpertSplit(degrees=(2, 4), parameters=tensor.parameters, exchanges=tensor.whole)
    return replace(graph, splits=replace(graph.splits, context=context, expert=expert))


def tiered(rng: random.Random, *, fitted: bool) -> HybridPricer:
    """8 accelerators: 2 or 4 in a host, sometimes 4 in a rack, a network that is slow as often as not."""
    graph = with_context(build.random_graph(rng, most_blocks=2), rng)
    devices = rng.choice((2, 2, 4))
    slow = rng.choice((0.003, 0.03, 0.3, 1.0))
    cluster = parse_cluster(f"h100:{devices}x{8 // devices}") if fitted else build.random_cluster(rng)
    host = replace(cluster.hosts[0], count=8 // devices, devices=devices)
    links = [
        replace(link, bandwidth=link.bandwidth * (slow if link.tier == "network" else 1)) for link in cluster.links
    ]
    if devices == 2 and rng.random() < 0.5:
        near = next(link for link in links if link.tier == "host")
        rack = Link(tier="rack", latency=1e-5, bandwidth=near.bandwidth * rng.choice((0.05, 0.3)), reach=4)
        links.append(rack)
    cluster = replace(cluster, hosts=(host,), links=tuple(links))
    memory = rng.choice((2, 8, 60)) * 10**9
    return HybridPricer(graph, build.with_memory(cluster, (memory,)))


def _pins(rng: random.Random) -> Pins:
    extra = rng.choice((
        {"tensor": 2}, {"tensor": 2, "pipeline": 2}, {"context": 2, "pipeline": 2}, {"context": 2, "tensor": 2},
        {"sharding": "parameters", "shard": 2}, {"sharding": "parameters", "tensor": 2}, {"sharding": "none"}, {},
        {"sharding": "parameters", "shard": 2, "data": 4}, {"pipeline": 2}, {"expert": 2}, {"expert": 4, "context": 2},
        {"expert": 2, "tensor": 2}, {"expert": 2, "sharding": "parameters", "shard": 2},
    ))  # fmt: skip
    return Pins(
        workers=8, recompute="none", accumulation=rng.choice((1, 2)), schedule="1f1b", **{"pipeline": 1} | extra
    )


@pytest.mark.parametrize(("batch", "fitted"), [*product(range(8), (False,)), *product(range(6), (True,))])
def test_the_best_of_all_orders(batch: int, fitted: bool) -> None:
    """420 cases of 8 devices in hosts and racks; the order that wins is not always the usual one."""
    unusual = 0
    for case in range(CASES):
        rng = random.Random(5100 * batch + case + 10**6 * fitted)
        pricer = tiered(rng, fitted=fitted)
        pins = _pins(rng)
        goal = Goal(pins=replace(pins, schedule=None if pins.pipeline == 1 else pins.schedule))
        result = Search(pricer, goal, Aim()).run()
        expected = build.best_of_everything(pricer, goal, Aim(), subsets=False)
        value = result.best.price.step if result.best is not None else float("inf")
        assert value == pytest.approx(expected, rel=1e-9)
        assert result.gap == 0.0
        if result.best is not None:
            assert pricer.price(result.best.layout).step == value
            unusual += result.best.layout.order != USUAL_ORDER
    assert unusual > 0


@pytest.mark.parametrize("fitted", [False, True])
def test_orders_that_lie_alike_are_priced_alike_and_bounded_by_the_best_of_each_axis(fitted: bool) -> None:
    """Every order of 60 meshes of 24 or 64 devices: one of those searched has its price, none is below the bound."""
    apart = 0
    for case in range(60):
        rng = random.Random(case + 10**5 * fitted)
        pricer = _large(rng, fitted=fitted)
        mesh = _mesh(rng, rng.choice((24, 64)))
        replicas = (Replica(count=mesh.num_shares, kinds=(0,) * mesh.pp, examples=2.0),)
        bounds = tuple(range(mesh.pp)) if mesh.pp > 1 else (0,)
        layout = Layout(mesh=mesh, replicas=replicas, sharding=rng.choice(("none", "parameters")), bounds=bounds)
        if layout.sharding == "none":
            layout = replace(layout, mesh=replace(mesh, dp_replicate=mesh.num_shares, dp_shard=1))
        legal = [one for one in dict.fromkeys(normal(layout.mesh, each) for each in EVERY) if suits(layout.mesh, one)]
        steps = {one: pricer.price(replace(layout, order=one)).step for one in legal}
        lump = replace(layout.mesh, dp_replicate=mesh.num_shares, dp_shard=1)
        kept = orders(lump, pricer.exchanges.reaches(layout), outermost=None, pinned=None)
        turned = [
            two for one in kept
            for two in orders_of_shards(
                layout.mesh, one, pricer.exchanges.reaches(layout), mixed=False, pinned=None
            )
        ]  # fmt: skip
        assert {round(steps[one], 12) for one in turned} == {round(step, 12) for step in steps.values()}
        assert kept[0] == USUAL_ORDER
        assert pricer.price(replace(layout, order=ANY_ORDER)).step <= min(steps.values()) * (1 + 1e-12)
        apart += len(set(steps.values())) > 1
    assert apart > 30


def _large(rng: random.Random, *, fitted: bool) -> HybridPricer:
    """Hosts of 2 to 8 devices, racks of several hosts or none."""
    devices = rng.choice((2, 4, 6, 8))
    cluster = parse_cluster(f"h100:{devices}x32") if fitted else build.random_cluster(rng)
    links = [replace(link, bandwidth=link.bandwidth * rng.choice((0.01, 1.0))) for link in cluster.links]
    if rng.random() < 0.6:
        reach = devices * rng.choice((2, 4))
        links.append(
            Link(tier="rack", latency=rng.choice((5e-6, 1e-5)), bandwidth=rng.choice((5e9, 4e10)), reach=reach)
        )
    host = replace(cluster.hosts[0], count=32, devices=devices)
    graph = with_context(build.random_graph(rng, most_blocks=3), rng)
    return HybridPricer(graph, build.with_memory(replace(cluster, hosts=(host,), links=tuple(links)), (10**12,)))


def _mesh(rng: random.Random, devices: int) -> Mesh:
    """So many devices on up to five axes, in random factors; experts on some of the data ranks."""
    degrees = dict.fromkeys(USUAL_ORDER, 1)
    while devices > 1:
        prime = next(one for one in (2, 3) if devices % one == 0)
        axis = rng.choice(USUAL_ORDER)
        if axis != "pp" or degrees["pp"] == 1:
            degrees[axis] *= prime
            devices //= prime
    shares = degrees["cp"] * degrees["dp_shard"] * degrees["dp_replicate"]
    expert = rng.choice([one for one in (1, 2, 3, 4) if shares % one == 0])
    return Mesh(**degrees, ep=expert)


def test_places_and_back() -> None:
    """Neighbours stand as far apart as the order says, every device is taken once, and the order is read off again."""
    for case in range(80):
        rng = random.Random(case)
        pricer = _large(rng, fitted=False)
        mesh = _mesh(rng, 24)
        order = normal(mesh, rng.choice(EVERY))
        replicas = (Replica(count=mesh.num_shares, kinds=(0,) * mesh.pp, examples=1.0),)
        layout = Layout(mesh=mesh, replicas=replicas, order=order, bounds=tuple(range(mesh.pp)))
        workers = workers_of(layout, pricer.hosts)
        devices = pricer.hosts[0].devices
        places = [int(one.host.rpartition("-")[2]) * devices + int(one.device.partition(":")[2]) for one in workers]
        assert sorted(places) == list(range(24))
        for axis in USUAL_ORDER:
            for rank in range(24):
                if mesh.coordinate(rank, axis) > 0:
                    before = rank - strides(mesh, USUAL_ORDER)[axis]
                    assert places[rank] - places[before] == strides(mesh, order)[axis]
        graph = replace(pricer.graph, batch_size=mesh.num_shares)
        strategy = strategy_of(layout, graph, pricer.units, workers)
        assert order_of(strategy) == order_of(strategy, pricer.hosts) == order
        assert layout_of(strategy, pricer.units, pricer.hosts).order == order
        assert [places[rank_at(strategy, place)] for place in range(24)] == list(range(24))
        assert sum(map(len, hosts_of(strategy).values())) == 24


def test_the_usual_order_is_that_of_the_ranks() -> None:
    mesh = Mesh(pp=2, dp_replicate=3, dp_shard=2, cp=2, tp=2)
    assert strides(mesh, USUAL_ORDER) == {"tp": 1, "cp": 2, "dp_shard": 4, "dp_replicate": 8, "pp": 24, "ep": 2}
    turned: Order = ("cp", "tp", "pp", "dp_shard", "dp_replicate")
    assert strides(mesh, turned) == {"dp_replicate": 1, "dp_shard": 3, "pp": 6, "tp": 12, "cp": 24, "ep": 24}


@pytest.mark.parametrize(
    ("mesh", "order", "legal"),
    [
        (Mesh(dp_replicate=4, tp=2, ep=2), ("dp_replicate", "dp_shard", "cp", "tp"), True),
        (Mesh(dp_replicate=4, tp=2, ep=2), ("tp", "dp_replicate", "dp_shard", "cp"), True),
        (Mesh(dp_replicate=4, cp=2, ep=2), ("cp", "dp_replicate", "dp_shard"), True),
        (Mesh(dp_replicate=4, cp=2, ep=4), ("cp", "dp_replicate", "dp_shard"), False),
        (Mesh(dp_replicate=4, cp=2, tp=2, ep=4), ("dp_replicate", "dp_shard", "tp", "cp"), False),
        (Mesh(dp_replicate=2, dp_shard=2, ep=4), ("dp_replicate", "dp_shard", "cp"), True),
        (Mesh(dp_replicate=2, dp_shard=2, ep=4), ("dp_shard", "dp_replicate", "cp"), False),
    ],
)  # fmt: skip
def test_expert_groups_need_a_common_stride(mesh: Mesh, order: Order, legal: bool) -> None:
    """A group is made of neighbours along context, then shards, then replicas; nothing may lie between them."""
    assert suits(mesh, normal(mesh, order)) == legal


def test_pins_name_each_axis_once() -> None:
    assert pinned_order("tensor,pipeline,data,context") == ("tp", "pp", "dp_replicate", "dp_shard", "cp")
    assert pinned_order("pipeline,shards,replicas,context,tensor") == ("pp", "dp_shard", "dp_replicate", "cp", "tp")
    for order in EVERY:
        assert pinned_order(pin_of(order)) == order
    check_order(Pins())
    for wrong, told in (
        ("pipeline,data,tensor", "each once"), ("pipeline,data,context,tensr", "did you mean 'tensor'?"),
        ("replicas,pipeline,shards,context,tensor", "each once"), ("pipeline,data,data,context,tensor", "each once"),
    ):  # fmt: skip
        with pytest.raises(PlanError) as caught:
            check_order(Pins(order=wrong))
        assert told in caught.value.cause
        assert "--set order=tensor,pipeline,data,context" in caught.value.alternatives


def test_words_name_axes_with_several_members() -> None:
    assert worded(Mesh(tp=2, dp_replicate=4), ("pp", "tp", "dp_replicate", "dp_shard", "cp")) == "tensor, data"
    assert (
        worded(Mesh(tp=2, dp_shard=2, dp_replicate=2), ("dp_shard", "dp_replicate", "tp")) == "shards, replicas, tensor"
    )


def test_short_sequences_over_a_slow_network_stand_with_data_inside() -> None:
    """8B fine-tuned on 32 sequences of 512 tokens, two hosts of 8 H100 with 100 Gbit/s each, tensor 2 × data 8.

    2.11 s a step where the usual order takes 2.70: that leaves each host with 4 data ranks of both halves, whose 16 GB
    of gradients in 2 bytes cross the network in every step. With a half of the model in each host no gradient leaves
    it, and activations of 4 sequences cross twice in each layer's forward and backward.
    """
    model = replace(LLAMA_8B, sequence=512)
    graph = replace(captured(model, "bfloat16", Writing()), batch_size=32)
    fast = parse_cluster("h100:8x2")
    links = tuple(replace(one, bandwidth=12.5e9) if one.tier == "network" else one for one in fast.links)
    pricer = HybridPricer(graph, replace(fast, links=links))
    pins = Pins(tensor=2, data=8, sharding="none")
    found = Search(pricer, Goal(pins=pins), Aim()).run().best
    usual = Search(pricer, Goal(pins=replace(pins, order="pipeline,data,context,tensor")), Aim()).run().best
    assert found is not None
    assert usual is not None
    assert "from far to near: tensor, data" in summary(found.layout)
    assert usual.layout.order == USUAL_ORDER
    assert found.price.step == pytest.approx(2.112, rel=0.01)
    assert usual.price.step == pytest.approx(2.70, rel=0.01)
    far, near = by_axis(found.price.collectives), by_axis(usual.price.collectives)
    assert far["data"] < 0.2 * near["data"]
    assert far["tp"] > 5 * near["tp"]


def test_plans_tell_the_order_and_what_others_would_cost(tmp_path: Path) -> None:
    """As pinned, in words, among the reasons, in the grid and from its file."""
    rng = random.Random(4)
    graph = with_context(build.random_graph(rng, most_blocks=2), rng)
    cluster = build.random_cluster(rng)
    host = replace(cluster.hosts[0], count=4, devices=2)
    cluster = build.with_memory(replace(cluster, hosts=(host,)), (10**11,))
    pins = Pins(workers=8, tensor=2, data=4, pipeline=1, sharding="none", order="tensor,data,context,pipeline")
    plan = plan_outright(graph, cluster, Goal(pins=pins))
    assert order_of(plan.strategy) == ("pp", "cp", "tp", "dp_replicate", "dp_shard")
    assert [plan.strategy.workers[rank].host[-1] for rank in range(8)] == ["0", "2", "0", "2", "1", "3", "1", "3"]
    assert "from far to near: tensor, data" in plan.candidates[0].summary
    assert grid(plan.strategy) == "tp 2 × dp_replicate 4"
    write_plan(plan, tmp_path / "plan.toml")
    again = explain(read_plan(tmp_path / "plan.toml"))
    assert {item.name: item.value for item in again.decisions}["order"] == "pipeline,context,tensor,data"
    free = plan_outright(graph, cluster, Goal(pins=replace(pins, order=None)))
    told = [one for one in free.candidates[1:] if one.summary.startswith("order ")]
    assert told
    assert all(one.step > free.prediction.time.step and "slower" in one.reason for one in told)
    with pytest.raises(PlanError, match="no order of the axes"):
        plan_outright(graph, cluster, Goal(pins=Pins(order="tensor,data")))


def test_of_kinds_of_devices_each_keeps_whole_stages_or_replicas() -> None:
    """40 cases of two hosts of 4 of two kinds: with the pipeline or the data outermost, and any order inside."""
    orders_found = Counter[Order]()
    for case in range(40):
        rng = random.Random(600 + case)
        graph = with_context(build.random_graph(rng, most_blocks=2), rng)
        cluster = build.random_cluster(rng, mixed=True)
        hosts = tuple(replace(host, count=2, devices=2) for host in cluster.hosts)
        links = tuple(replace(link, bandwidth=link.bandwidth * rng.choice((0.01, 1.0))) for link in cluster.links)
        cluster = build.with_memory(replace(cluster, hosts=hosts, links=links), (6 * 10**10,) * 2)
        pricer = HybridPricer(graph, cluster)
        extra = rng.choice(({"tensor": 2}, {"context": 2}, {"pipeline": 2, "tensor": 2}, {"sharding": "parameters"}))
        goal = Goal(pins=Pins(workers=8, recompute="none", accumulation=1, **{"pipeline": 1} | extra))
        result = Search(pricer, goal, Aim()).run()
        expected = build.best_of_everything(pricer, goal, Aim(), subsets=False)
        value = result.best.price.step if result.best is not None else float("inf")
        assert value == pytest.approx(expected, rel=1e-9)
        if result.best is not None:
            layout = result.best.layout
            orders_found[layout.order] += 1
            kinds = [kind for one in layout.replicas for _ in range(one.count) for kind in one.kinds]
            names = [pricer.hosts[kind].name for kind in kinds]
            workers = workers_of(layout, pricer.hosts)
            inner = layout.mesh.tp * layout.mesh.cp
            for rank, worker in enumerate(workers):
                share, stage = layout.mesh.share(rank), rank // (inner * layout.mesh.num_shares)
                assert worker.host.startswith(names[share * layout.mesh.pp + stage])
    assert len(orders_found) > 2
