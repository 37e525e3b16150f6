"""Islands of split models: asked for, allowed, priced, refused."""

from dataclasses import replace

import pytest

import planning_builders as build
from meshwright.cost import Pricer, island_ranks
from meshwright.errors import DoesNotFitError, PlanError
from meshwright.graph import Cut, Graph, Linear, SplitExchange, SplitParameter, Splits, TensorSplit
from meshwright.hardware import Cluster
from meshwright.plan import Goal, Pins, explain, plan_outright, shortlist

SIZE = 8 * 4_000_000
SPLIT = Pins(tensor=2, updates="local", interval=16)


def _graph(*, batch: int = 64) -> Graph:
    """Eight layers of 4 MB that can be split over two workers, and cut before each but the first."""
    graph = build.multilayer(layers=8, batch=batch)
    size = Linear(per_example=4e3)
    exchanges = tuple(
        SplitExchange(name="all_reduce", phase=phase, module="layers.0", size=size, repeats=8)
        for phase in ("forward", "backward")
    )
    tensor = TensorSplit(
        degrees=(2,), parameters=(SplitParameter(path="layers.0.weight", dim=0),), operations=(0, 1, 2),
        whole=exchanges,
    )  # fmt: skip
    cuts = tuple(Cut(path=f"layers.{index}", size=size) for index in range(1, 8))
    return replace(graph, splits=Splits(tensor=tensor, cuts=cuts))


def _hosts(*, count: int = 2, memory: int = 16 * build.GB) -> Cluster:
    """Hosts of two cores; 10 MB/s between them."""
    here = build.machine(build.processor(memory=memory))
    network = replace(here.links[0], tier="network", latency=1e-3, bandwidth=10e6, collectives=())
    return replace(here, hosts=(replace(here.hosts[0], name="node", count=count),), links=(*here.links, network))


def _goal(pins: Pins = SPLIT, *allow: str) -> Goal:
    return Goal(pins=pins, allow=("staleness", *allow))


def test_every_island_splits_the_model_on_a_host_of_its_own() -> None:
    """Four workers, two a host: both workers' halves of 32 MB go through a host's link, once in 16 steps."""
    plan = plan_outright(_graph(), _hosts(), _goal())
    strategy = plan.strategy
    updates = strategy.exchange.updates
    assert updates is not None
    assert (strategy.mesh.tp, strategy.mesh.dp_replicate, updates.islands, updates.interval) == (2, 2, 2, 16)
    assert [{strategy.workers[one].host for one in island_ranks(strategy.mesh, updates, rank)} for rank in (0, 2)] == [
        {"node-0"},
        {"node-1"},
    ]
    (meeting,) = [one for one in plan.prediction.collectives if one.axis == "islands"]
    assert meeting.size == SIZE / 2 / 16
    assert meeting.duration == pytest.approx((2e-3 + 2 * (SIZE / 2) / 10e6) / 16)


def test_exact_steps_of_the_same_layout_are_told() -> None:
    graph, cluster = _graph(), _hosts()
    plan = plan_outright(graph, cluster, _goal())
    pins = Pins(tensor=2, workers=4, data=2, sharding="none", order="pipeline,data,context,tensor")
    exact = plan_outright(graph, cluster, Goal(pins=pins))
    assert plan.prediction.time.step < 0.3 * exact.prediction.time.step
    assert plan.prediction.time.forward == pytest.approx(exact.prediction.time.forward)
    assert "updates=every_step" in plan.flips[0]
    assert "2 islands of 2 workers" in plan.binding
    told = explain(plan)
    assert any("islands do not know each other's last 16 steps" in line for line in told.convergence)
    assert told.summary == plan.strategy.summary


def test_every_worker_keeps_the_outer_state_of_its_own_parts() -> None:
    graph, cluster = _graph(), _hosts()
    own = plan_outright(graph, cluster, _goal()).prediction.memory
    pins = Pins(tensor=2, workers=4, data=2, sharding="none")
    exact = plan_outright(graph, cluster, Goal(pins=pins)).prediction.memory
    assert own.communication >= 4 * SIZE / 2
    assert own.communication - 4 * SIZE / 2 <= exact.communication


def test_stages_of_an_island_stand_on_its_host() -> None:
    strategy = plan_outright(_graph(), _hosts(), _goal(Pins(pipeline=2, updates="local", interval=16))).strategy
    updates = strategy.exchange.updates
    assert updates is not None
    assert strategy.mesh.pp == 2
    for rank in range(4):
        assert len({strategy.workers[one].host for one in island_ranks(strategy.mesh, updates, rank)}) == 1


def test_islands_are_chosen_where_they_are_allowed_and_pay() -> None:
    """32 MB through 10 MB/s in every step take seconds; nothing is apart where staleness is not allowed."""
    graph, cluster = _graph(), _hosts()
    pins = Pins(tensor=2, pipeline=1, workers=4)
    assert plan_outright(graph, cluster, Goal(pins=pins, allow=("staleness",))).strategy.exchange.updates is not None
    assert plan_outright(graph, cluster, Goal(pins=pins)).strategy.exchange.updates is None


def test_shards_inside_islands_and_messages_in_fewer_bits() -> None:
    pins = replace(SPLIT, workers=8, data=2, shard=2, sharding="parameters", compression="int8")
    strategy = plan_outright(_graph(), _hosts(count=4), _goal(pins, "compression")).strategy
    updates, compression = strategy.exchange.updates, strategy.exchange.compression
    assert updates is not None
    assert compression is not None
    assert (strategy.mesh.dp_replicate, strategy.mesh.dp_shard, updates.islands) == (2, 2, 2)
    assert compression.method == "int8"


def test_without_a_pinned_split_islands_that_split_are_told() -> None:
    pins = Pins(updates="local", interval=16)
    found = shortlist(_graph(), _hosts(), _goal(pins))
    listed = [item.strategy for item in (*found.candidates, *found.others)]
    split = [strategy for strategy in listed if strategy.mesh.splits_the_model]
    assert {strategy.mesh.split_axes for strategy in split} == {("tensor",), ("pipeline",)}
    assert all(strategy.exchange.updates is not None for strategy in split)


@pytest.mark.parametrize(
    ("pins", "allow", "fact"),
    [
        (replace(SPLIT, updates="asynchronous"), (), "tensor = 2 with updates = asynchronous"),
        (replace(SPLIT, updates="shared"), (), "tensor = 2 with updates = shared"),
        (replace(SPLIT, data=1), (), "tensor = 2 with updates = local and data = 1"),
        (
            Pins(pipeline=2, updates="local", schedule="asynchronous"),
            (),
            "pipeline = 2 with updates = local and schedule = asynchronous",
        ),
        (Pins(tensor=2, compression="int8"), ("compression",), "tensor = 2 with compression = int8 and exact steps"),
        (replace(SPLIT, islands=3), (), "no strategy"),
    ],
)
def test_what_islands_of_split_models_cannot_do(pins: Pins, allow: tuple[str, ...], fact: str) -> None:
    with pytest.raises(PlanError) as refused:
        plan_outright(_graph(), _hosts(), _goal(pins, *allow))
    assert refused.value.fact.startswith(fact)
    assert refused.value.alternatives


def test_islands_that_do_not_fit_are_refused_with_what_they_keep() -> None:
    """Exact steps need 200 MB of context and 64 MB of parameters, gradients and state a worker; islands 64 MB more."""
    graph = _graph(batch=4)
    exact = plan_outright(graph, _hosts(), Goal(pins=Pins(tensor=2, workers=4, data=2, sharding="none")))
    memory = 2 * (exact.prediction.memory.peak + SIZE)
    with pytest.raises(DoesNotFitError, match="what its island agreed on last"):
        plan_outright(graph, _hosts(memory=memory), _goal(replace(SPLIT, workers=4)))


def test_a_price_is_that_of_the_slowest_island() -> None:
    strategy = plan_outright(_graph(), _hosts(), _goal()).strategy
    priced = Pricer(_graph(), _hosts()).predict(strategy)
    assert priced.flops == pytest.approx(Pricer(_graph(), _hosts()).hybrid.flops)
