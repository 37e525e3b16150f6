"""Plans for hardware that is not here: whole, with reasons in numbers, within limits, and as files."""

import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

import planning_builders as by_hand
import search_builders as build
from meshwright.cost import Mesh, Pricer
from meshwright.cost.hybrid import Layout, Replica, layout_of
from meshwright.errors import DoesNotFitError, PlanError
from meshwright.graph import Graph
from meshwright.hardware import Cluster, Link, parse_cluster
from meshwright.plan import Goal, Pins, Plan, overflow, plan_outright, price_change, read_plan, with_splits, write_plan
from meshwright.plan._target import enough
from meshwright.plan.explanation._causes import _tightest


def _case(seed: int = 3) -> tuple[Graph, Cluster]:
    rng = random.Random(seed)
    graph, cluster = build.random_graph(rng), build.random_cluster(rng)
    host = cluster.hosts[0]
    roomy = replace(host, count=2, devices=2, device=replace(host.device, memory=2 * 10**9))
    return graph, replace(cluster, hosts=(roomy,))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_outright(*_case(), Goal(tokens=1000.0))


def test_a_plan_says_everything(plan: Plan) -> None:
    assert plan.prediction.basis == "model"
    assert plan.binding
    assert plan.gap == 0.0
    assert plan.strategy.num_workers == plan.strategy.mesh.num_workers
    assert len({(worker.host, worker.device) for worker in plan.strategy.workers}) == plan.strategy.num_workers
    assert plan.candidates[0].reason == ""
    assert all(item.reason for item in plan.candidates[1:])
    assert sum(stage.blocks for stage in plan.stages) == sum(len(block.paths) for block in _case()[0].blocks)
    assert max(stage.memory for stage in plan.stages) == plan.prediction.memory.peak


def test_no_neighbour_that_fits_is_faster(plan: Plan) -> None:
    rest = [item.step for item in plan.candidates[1:] if item.fits]
    assert min(rest) >= plan.candidates[0].step * (1 - 1e-9)


def test_the_strategy_is_priced_as_the_layout_was(plan: Plan) -> None:
    graph, cluster = _case()
    pricer = Pricer(graph, cluster)
    assert pricer.predict(plan.strategy).time == plan.prediction.time
    hybrid = pricer.hybrid
    assert layout_of(plan.strategy, hybrid.units, hybrid.hosts).mesh == plan.strategy.mesh


def test_a_run_to_its_end(plan: Plan) -> None:
    """1000 examples of one token in batches of the graph's size."""
    assert plan.target is not None
    steps = -(-1000 // _case()[0].batch_size)
    assert plan.target.steps == steps
    assert plan.target.time == pytest.approx(steps * plan.prediction.time.step)
    assert plan.target.money == pytest.approx(steps * plan.prediction.money)


def test_energy_and_money_are_those_of_every_device_for_the_whole_step() -> None:
    """Devices of 500 W and $3.60 an hour: each takes 500 J and a tenth of a cent per second."""
    graph, cluster = _case()
    host = cluster.hosts[0]
    priced = replace(cluster, hosts=(replace(host, device=replace(host.device, power=500.0, price=3.6)),))
    plan = plan_outright(graph, priced, Goal(tokens=1000.0))
    step, devices = plan.prediction.time.step, plan.strategy.num_workers
    assert plan.prediction.energy == pytest.approx(devices * 500 * step)
    assert plan.prediction.money == pytest.approx(devices * 1e-3 * step)
    assert plan.target is not None
    assert plan.target.energy == pytest.approx(plan.target.steps * plan.prediction.energy)
    assert plan.tokens * plan.target.steps == plan.target.tokens


def test_a_plan_says_how_likely_memory_runs_out_and_when_it_is_fullest(plan: Plan) -> None:
    """The share of the smallest device's memory, and a moment for every stage."""
    assert plan.capacity == 2 * 10**9
    assert 0 <= overflow(plan) < 0.11
    fuller = replace(plan, capacity=plan.prediction.memory.peak)
    assert overflow(fuller) > 0.5
    assert {stage.moment for stage in plan.stages} <= {"loss", "backward", "update"}


def test_the_front_gives_up_time_for_something(plan: Plan) -> None:
    front = plan.front
    assert front[0].step == pytest.approx(plan.prediction.time.step)
    for before, after in pairwise(front):
        assert after.step >= before.step
        assert after.money < before.money or after.memory < before.memory


def test_there_and_back_as_a_file(plan: Plan, tmp_path: Path) -> None:
    write_plan(plan, tmp_path / "plan.toml")
    assert read_plan(tmp_path / "plan.toml") == plan


def test_pins_are_followed() -> None:
    plan = plan_outright(*_case(), Goal(pins=Pins(tensor=2, pipeline=2, workers=4)))
    mesh = plan.strategy.mesh
    assert (mesh.tp, mesh.pp, mesh.num_workers) == (2, 2, 4)
    assert {item.axis for item in plan.strategy.placements} == {"tp"}
    assert plan.strategy.pipeline is not None


def test_shares_that_follow_speed_are_pinned_where_the_model_stays_whole() -> None:
    """On the processors of two hosts; a split model's workers wait for each other inside the step."""
    graph, machine = by_hand.multilayer(layers=4, batch=64), by_hand.machine()
    network = Link(tier="network", latency=1e-4, bandwidth=1e9)
    hosts = (replace(machine.hosts[0], count=2),)
    cluster = replace(machine, identity="", hosts=hosts, links=(*machine.links, network))
    whole = Pins(sharing="adaptive", workers=4, tensor=1, context=1, pipeline=1)
    assert plan_outright(graph, cluster, Goal(pins=whole)).strategy.batch.sharing == "adaptive"
    with pytest.raises(PlanError, match="sharing = 'adaptive' does not go with pipeline"):
        plan_outright(graph, cluster, Goal(pins=Pins(sharing="adaptive", workers=4, pipeline=2)))


def test_an_illegal_degree_is_refused_with_the_legal_ones() -> None:
    with pytest.raises(PlanError, match="tensor = 3 is not possible here") as caught:
        plan_outright(*_case(), Goal(pins=Pins(tensor=3)))
    assert "legal values of tensor: 1, 2" in str(caught.value)


def test_a_deadline_that_nothing_keeps() -> None:
    with pytest.raises(PlanError, match="no plan keeps the limits: the fastest takes"):
        plan_outright(*_case(), Goal(tokens=1e6, deadline=1e-3))


@pytest.mark.parametrize(("duration", "told"), [(5_813.0, "96.9min"), (7_015_000.0, "81.2d"), (172_800.0, "2d")])
def test_a_deadline_that_is_enough(duration: float, told: str) -> None:
    """Rounded up to a tenth: 96.88 minutes, 81.19 days, and two days at once."""
    assert enough(duration) == told


def test_nothing_fits() -> None:
    with pytest.raises(DoesNotFitError, match=r"needs at least .* per device") as caught:
        plan_outright(*_case(), Goal(memory_limit=10**6))
    assert "activations" in str(caught.value)
    assert any(item.startswith("leave out --memory 976.56 KiB: 4 × kind 0") for item in caught.value.alternatives)


def test_what_would_fit_was_found_by_searching() -> None:
    """Without a pin, on more hosts, with a smaller batch: each with its plan, and following it there is one."""
    graph, cluster = _case()
    (host,) = cluster.hosts
    small = replace(cluster, hosts=(replace(host, device=replace(host.device, memory=4 * 10**8)),))
    larger = replace(cluster, hosts=(replace(host, device=replace(host.device, memory=5 * 10**8)),))
    ways: list[str] = []
    for there, pins in ((small, Pins(recompute="none")), (larger, Pins(sharding="none"))):
        with pytest.raises(DoesNotFitError) as caught:
            plan_outright(graph, there, Goal(pins=pins))
        ways += [item.partition(":")[0] for item in caught.value.alternatives if " takes " in item]
    assert {"8 hosts instead of 2", "a batch of 2 instead of 8", "leave out sharding = none"} <= set(ways)
    fitting = plan_outright(replace(graph, batch_size=2), small, Goal(pins=Pins(recompute="none")))
    assert fitting.prediction.memory.peak <= 4 * 10**8


def test_the_cheapest_within_a_deadline(plan: Plan) -> None:
    graph, cluster = _case()
    assert plan.target is not None
    cheap = plan_outright(graph, cluster, Goal(tokens=1000.0, minimize="cost"))
    assert cheap.prediction.money <= plan.prediction.money
    both = plan_outright(graph, cluster, Goal(tokens=1000.0, minimize="cost", deadline=1.001 * plan.target.time))
    assert both.prediction.time.step <= 1.001 * plan.prediction.time.step


def test_a_change_is_priced(plan: Plan) -> None:
    graph, cluster = _case()
    other = 1 if plan.strategy.mesh.tp == 2 else 2
    change = price_change(plan, graph, cluster, Pins(tensor=other))
    assert change.before.step == plan.prediction.time.step
    assert change.after.reason
    assert ("tensor 2" in change.after.summary) == (other == 2)
    for made_of in ((graph, replace(cluster, name="another")), (replace(graph, model="Other"), cluster)):
        with pytest.raises(PlanError, match="and beside it lie"):
            price_change(plan, *made_of, Pins(tensor=other))
    with pytest.raises(PlanError, match="the plan is for batches of"):
        price_change(plan, replace(graph, batch_size=2 * graph.batch_size), cluster, Pins(tensor=other))


@pytest.mark.parametrize("pins", [Pins(workers=1), Pins(workers=2), Pins(data=2), Pins(shard=4)])
def test_a_change_that_other_choices_leave_no_room_for_moves_them(plan: Plan, pins: Pins) -> None:
    """Fewer workers, say, when the plan's degrees make four: it was said that one pin contradicts itself."""
    change = price_change(plan, *_case(), pins)
    assert change.after.step >= change.before.step * (1 - 1e-9)


def test_a_degree_that_divides_no_number_of_workers_names_one_that_it_does() -> None:
    graph, cluster = _case()
    with pytest.raises(PlanError, match="data = 3") as caught:
        plan_outright(graph, cluster, Goal(pins=Pins(data=3)))
    assert "1, 2, 4 workers are looked at, and 3 divides none of them" in caught.value.cause
    assert caught.value.alternatives[0] == "--set workers=3"
    assert plan_outright(graph, cluster, Goal(pins=Pins(data=3, workers=3))).strategy.num_workers == 3
    with pytest.raises(PlanError, match="are 2 sizes, and random has 1 kind of devices"):
        plan_outright(graph, cluster, Goal(pins=Pins(shards="3:1")))


def test_late_updates_are_planned_where_they_are_asked_for_and_allowed() -> None:
    """Without the way back a step is shorter by a backward of one stage; copies of two steps' parameters are held."""
    graph, plans = with_splits(by_hand.multilayer(layers=4)), {}
    for schedule in ("1f1b", "asynchronous"):
        pins = Pins(workers=2, pipeline=2, schedule=schedule, accumulation=4)
        plans[schedule] = plan_outright(graph, by_hand.machine(), Goal(pins=pins, allow=("staleness",))).prediction
        if schedule == "asynchronous":
            with pytest.raises(PlanError, match="--allow staleness"):
                plan_outright(graph, by_hand.machine(), Goal(pins=pins))
    assert plans["asynchronous"].time.step < plans["1f1b"].time.step
    assert plans["asynchronous"].memory.peak > plans["1f1b"].memory.peak


def test_a_budget_that_nothing_keeps_is_told_what_would_do() -> None:
    """The cheapest plan's price, which is not the fastest one's."""
    graph, cluster = _case()
    priced = tuple(replace(host, device=replace(host.device, price=2.0)) for host in cluster.hosts)
    with pytest.raises(PlanError, match=r"the cheapest [$]") as caught:
        plan_outright(graph, replace(cluster, hosts=priced), Goal(tokens=1e9, budget=1e-3))
    assert any(item.startswith("--budget of at least ") for item in caught.value.alternatives)
    assert "may cost $0.0 " not in str(caught.value)


def test_what_one_kind_of_device_costs_is_not_what_all_do() -> None:
    """A kind without a price is not free: no sum is told, and what weighs money is refused with its name."""
    graph, cluster = _case()
    (host,) = cluster.hosts
    unknown = replace(host, name="other", device=replace(host.device, name="kind 7", price=0.0))
    both = replace(cluster, hosts=(host, unknown))
    assert plan_outright(graph, cluster, Goal()).prediction.money > 0
    assert plan_outright(graph, both, Goal()).prediction.money == 0
    for goal in (Goal(minimize="cost"), Goal(steps=10, budget=1e9)):
        with pytest.raises(PlanError, match="the price of kind 7 is not known"):
            plan_outright(graph, both, goal)


@pytest.mark.parametrize("trait", ["data_dependent", "batch_statistics", "batch_norm"])
def test_what_a_model_forbids_here_is_not_planned_elsewhere(trait: str) -> None:
    """No split of a step that is another one every time, no second worker for coupled examples, no second BatchNorm."""
    graph, cluster = _case()
    (host,) = cluster.hosts
    if trait == "batch_statistics":
        cluster = replace(cluster, hosts=(replace(host, device=replace(host.device, memory=4 * 10**9)),))
    free = plan_outright(graph, cluster, Goal(pins=Pins(recompute="all")) if trait == "batch_norm" else Goal())
    assert free.strategy.num_workers > 1
    odd = replace(graph, traits=(trait,), gaps=("net.py:9: 'if y.max() > 0:'",))
    plan = plan_outright(odd, cluster, Goal(minimize="memory" if trait == "batch_norm" else "time"))
    if trait == "batch_norm":
        assert plan.strategy.recompute == ()
        return
    assert not plan.strategy.mesh.splits_the_model
    assert (plan.strategy.num_workers == 1) == (trait == "batch_statistics")
    with pytest.raises(PlanError, match="is not one fixed graph") as caught:
        plan_outright(replace(odd, traits=("data_dependent",)), cluster, Goal(pins=Pins(tensor=2)))
    assert caught.value.cause == "net.py:9: 'if y.max() > 0:'"


def test_reasons_are_those_of_what_is_made_small() -> None:
    """Under a goal of money, neighbours lose by money or by the deadline, and twice the batch is weighed in money."""
    graph, cluster = _case()
    (host,) = cluster.hosts
    cluster = replace(cluster, hosts=(replace(host, device=replace(host.device, price=2.0)),))
    fastest = plan_outright(graph, cluster, Goal(tokens=1000.0))
    assert fastest.target is not None
    goal = Goal(tokens=1000.0, minimize="cost", deadline=1.01 * fastest.target.time)
    plan = plan_outright(graph, cluster, goal)
    other = 1 if plan.strategy.mesh.pp == 2 else 2
    change = price_change(plan, graph, cluster, Pins(pipeline=other))
    assert "dearer" in change.after.reason or "needs" in change.after.reason
    reasons = [item.reason for item in plan.candidates[1:]]
    assert all("dearer" in reason or "a step takes at least" in reason or "needs" in reason for reason in reasons)
    assert any("a step takes at least" in reason for reason in reasons)
    assert any("by the example" in flip for flip in plan.flips)
    assert not any("more examples per second" in flip for flip in plan.flips)


def test_twice_the_hardware_of_one_host_is_priced_or_said_to_be_unknown() -> None:
    graph, cluster = _case()
    alone = replace(cluster, hosts=(replace(cluster.hosts[0], count=1),), links=cluster.links[:1])
    (said,) = (flip for flip in plan_outright(graph, alone, Goal()).flips if "twice the hardware" in flip)
    assert "not priced, for the catalogue does not know what network hosts of kind 0 have" in said
    reach = replace(cluster.links[0], tier="rack", reach=4)
    pod = replace(cluster, links=(*cluster.links[:1], reach))
    (said,) = (flip for flip in plan_outright(graph, pod, Goal()).flips if "twice the hardware" in flip)
    assert "not priced" in said
    known = replace(alone.hosts[0], device=replace(alone.hosts[0].device, name="NVIDIA H100"))
    (said,) = (
        flip for flip in plan_outright(graph, replace(alone, hosts=(known,)), Goal()).flips if "twice the hard" in flip
    )
    assert "times as fast" in said


def test_memory_that_binds_is_that_of_the_device_with_least_to_spare() -> None:
    """Two kinds, 3 and 12 GB: the second stage holds more on its roomy device, and the first is what binds."""
    for seed in range(3):
        rng = random.Random(seed)
        graph, cluster = build.random_graph(rng), build.random_cluster(rng, mixed=True)
        hosts = [replace(host, device=replace(host.device, memory=size * 10**9))
                 for host, size in zip(cluster.hosts, (3, 12), strict=True)]  # fmt: skip
        pricer = Pricer(graph, replace(cluster, hosts=tuple(hosts))).hybrid
        layout = Layout(mesh=Mesh(pp=2, dp_replicate=2), bounds=(0, 1), micro_batches=1,
                        replicas=(Replica(count=2, kinds=(0, 1), examples=graph.batch_size / 2),))  # fmt: skip
        stage, peak = _tightest(pricer, layout)
        shares = [items.peak / size for items, size in zip(pricer.price(layout).memory, (3, 12), strict=True)]
        assert (stage, peak) == (shares.index(max(shares)), pricer.price(layout).memory[stage].peak)
        assert (peak, hosts[stage].device.memory) == (
            pricer.tightest(layout)[0].peak, pricer.hosts[pricer.tightest(layout)[1]].device.memory
        )  # fmt: skip


def test_twice_the_batch_is_never_said_to_train_more_slowly(plan: Plan) -> None:
    """The plan itself takes it in twice the micro-batches."""
    told = [flip for flip in plan.flips if flip.startswith("a batch of")]
    assert len(told) == 1
    assert "more examples per second" in told[0]


def test_where_nothing_fits_more_devices_or_hosts_of_the_kind_are_named() -> None:
    """A model whose parameters and gradients alone are more than an RTX 4090 has, and less than several have."""
    graph = by_hand.multilayer(layers=4, batch=64, scale=1.0)
    graph = replace(graph, parameters=tuple(replace(one, shape=(1024, 10**6 // 2)) for one in graph.parameters[:4]))
    with pytest.raises(DoesNotFitError) as caught:
        plan_outright(graph, parse_cluster("rtx4090:1"), Goal())
    assert any(
        way.startswith(("2 devices instead of 1", "4 devices instead of 1")) for way in caught.value.alternatives
    )
