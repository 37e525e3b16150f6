"""Optimizer state and activations in the hosts' memory: what it costs and frees, and where a search takes it."""

import random
from dataclasses import replace

import pytest

import search_builders as build
from meshwright.cost import Mesh
from meshwright.cost.hybrid import HybridPricer, Layout, Replica
from meshwright.errors import PlanError
from meshwright.hardware import OperationRate, parse_cluster
from meshwright.plan import Goal, Pins, plan_outright, read_plan, write_plan
from meshwright.plan.search import Aim, Search
from meshwright.units import MIB


def _pricer(speed: float = 10e9) -> HybridPricer:
    """Two devices of 100 GB, joined to their hosts' memory at 10 GB/s."""
    rng = random.Random(1)
    graph, cluster = build.random_graph(rng), build.random_cluster(rng)
    parameters = tuple(replace(item, shape=(2, 10**7)) for item in graph.parameters)
    ways = tuple(OperationRate(kind="copy", variant=way, bandwidth=speed, overhead=0.0)
                 for way in ("to_device", "from_device") if speed)  # fmt: skip
    host = cluster.hosts[0]
    own = tuple(row for row in host.device.operation_rates if row.variant == "default")
    roomy = replace(host, count=1, devices=2, device=replace(host.device, memory=10**11, operation_rates=own + ways))
    return HybridPricer(replace(graph, parameters=parameters), replace(cluster, hosts=(roomy,)))


def test_state_is_carried_there_and_back_beside_nothing() -> None:
    pricer = _pricer()
    here = Layout(mesh=Mesh(dp_replicate=2), replicas=(Replica(count=2, kinds=(0,), examples=1.0),))
    away = replace(here, offload="state")
    state = 8 * sum(2 * 10**7 * item.repeats for item in pricer.graph.parameters)
    kept, moved = pricer.price(here), pricer.price(away)
    assert moved.step - kept.step == pytest.approx(2 * state / 10e9)
    assert kept.memory[0].optimizer == state
    assert moved.memory[0].optimizer == max(64 * MIB, 8 * 2 * 10**7)  # one tensor's


def test_state_goes_only_where_memory_asks_for_it() -> None:
    pricer = _pricer()
    aim = Aim()
    pins = Pins(workers=1)
    roomy = Search(pricer, Goal(pins=pins), aim).run().best
    assert roomy is not None
    assert roomy.layout.offload == "none"
    away = Search(pricer, Goal(pins=replace(pins, offload="state")), Aim(minimize="memory")).run().best
    assert away is not None
    goal = Goal(pins=pins, memory_limit=away.price.peak)
    tight = Search(pricer, goal, aim).run().best
    assert tight is not None
    assert tight.layout.offload == "state"
    assert Search(pricer, replace(goal, pins=replace(pins, offload="none")), aim).run().best is None


def test_activations_are_waited_for_there_and_back() -> None:
    """What blocks save goes at 10 GB/s each way; one block's at a time is on the device."""
    pricer = _pricer()
    here = Layout(mesh=Mesh(), replicas=(Replica(count=1, kinds=(0,), examples=2.0),), micro_batches=2)
    kept, moved = pricer.price(here), pricer.price(replace(here, offload="activations"))
    sizes = [item.size.at(2.0) for item in pricer.graph.activations if item.module.startswith("part")]
    counts = [item.repeats for item in pricer.graph.activations if item.module.startswith("part")]
    away = sum(size * count for size, count in zip(sizes, counts, strict=True))
    assert moved.step - kept.step == pytest.approx(2 * 2 * away / 10e9)
    assert moved.time.communication - kept.time.communication == pytest.approx(2 * 2 * away / 10e9)
    assert kept.memory[0].activations - moved.memory[0].activations == pytest.approx(away, abs=1)
    assert moved.memory[0].transient == pytest.approx(pricer.graph.transient.at(2.0) + max(sizes), abs=1)


def test_activations_go_where_nothing_may_be_computed_again() -> None:
    """12 cases in as much memory as they need with all blocks' activations away: the best of everything."""
    taken = 0
    for case in range(12):
        pricer = HybridPricer(build.random_graph(random.Random(case), most_blocks=2), _pricer().cluster)
        pins = Pins(workers=1 + case % 2, recompute="none" if case % 3 else None)
        away = replace(pins, offload="activations")
        least = Search(pricer, Goal(pins=away), Aim(minimize="memory")).run().best
        assert least is not None
        assert least.layout.recomputed == ()
        assert not least.layout.mesh.splits_the_model
        goal = Goal(pins=pins, memory_limit=least.price.peak)
        result = Search(pricer, goal, Aim()).run()
        assert result.best is not None
        expected = build.best_of_everything(pricer, goal, Aim(), subsets=pins.recompute is None)
        assert result.best.price.step == pytest.approx(expected, rel=1e-7)
        taken += result.best.layout.offload == "activations"
    assert taken > 0


def test_it_is_in_the_plan_and_its_file(tmp_path) -> None:
    pricer = _pricer()
    plan = plan_outright(pricer.graph, pricer.cluster, Goal(pins=Pins(offload="state")))
    assert plan.strategy.offload == "state"
    assert "state offloaded" in plan.strategy.summary
    assert plan.origins["offload"] == "file"
    write_plan(plan, tmp_path / "plan.toml")
    assert read_plan(tmp_path / "plan.toml").strategy == plan.strategy


@pytest.mark.parametrize("cluster", ["epyc-9654:1", "unknown link"])
def test_where_there_is_nowhere_to_go_it_is_refused(cluster: str) -> None:
    pricer = _pricer(speed=0.0)
    where = pricer.cluster if cluster == "unknown link" else parse_cluster(cluster)
    with pytest.raises(PlanError, match="offload = 'state' is not possible here"):
        plan_outright(pricer.graph, where, Goal(pins=Pins(offload="state")))
