"""Splits of the model among everything else: where they are offered, where they are tried, what they are told of."""

from dataclasses import replace

import planning_builders as build
from meshwright.cost import Pricer
from meshwright.graph import (
    Cut,
    Graph,
    Linear,
    SplitExchange,
    SplitParameter,
    Splits,
    TensorSplit,
)
from meshwright.hardware import Cluster, Link
from meshwright.plan import Goal, Pins, TrialResult, choose, shortlist
from meshwright.plan._model_splits import model_splits

MB = 10**6


def _graph(*, batch: int = 1, layers: int = 8, traits: tuple[str, ...] = (), exchanged: float = 4e3) -> Graph:
    """Layers that can be split over 2 or 4 workers with one exchange each way, and cut before each but the first."""
    graph = build.multilayer(layers=layers, batch=batch, traits=traits)
    size = Linear(per_example=exchanged)
    exchanges = tuple(
        SplitExchange(name="all_reduce", phase=phase, module="layers.0", size=size, repeats=layers)
        for phase in ("forward", "backward")
    )
    tensor = TensorSplit(
        degrees=(2, 4), parameters=(SplitParameter(path="layers.0.weight", dim=0),), operations=(0, 1, 2),
        whole=exchanges,
    )  # fmt: skip
    cuts = tuple(Cut(path=f"layers.{index}", size=size) for index in range(1, layers))
    return replace(graph, splits=Splits(tensor=tensor, cuts=cuts))


def _hosts(*, count: int = 4, memory: int = 16 * build.GB, bandwidth: float = 1e9) -> Cluster:
    """Hosts of one core each."""
    cluster = build.machine(build.processor(cores=1, memory=memory))
    network = Link(tier="network", latency=1e-5, bandwidth=bandwidth)
    return replace(cluster, hosts=(replace(cluster.hosts[0], count=count),), links=(*cluster.links, network))


def test_one_example_is_computed_by_several_workers_where_that_is_faster() -> None:
    """One example keeps data parallelism at one worker; four workers each read a quarter of the parameters."""
    found = shortlist(_graph(), _hosts(), Goal())
    best = found.candidates[0].strategy
    assert best.mesh.tp * best.mesh.pp == 4
    assert {item.strategy.num_workers for item in found.candidates} == {1, 4}


def test_splits_that_promise_nothing_are_told_and_not_tried() -> None:
    """Two workers take half of 64 examples each; a split would exchange activations besides."""
    found = shortlist(_graph(batch=64, exchanged=4e6), build.machine(), Goal())
    assert not any(item.strategy.mesh.splits_the_model for item in found.candidates)
    told = [item.strategy.mesh for item in found.others if item.strategy.mesh.splits_the_model]
    assert {(mesh.tp, mesh.pp) for mesh in told} == {(2, 1), (1, 2)}


def test_parts_of_one_host_exchange_through_memory_that_all_of_them_see() -> None:
    """Shared memory was measured there; between hosts, for sharded parameters and for fewer bits it does not go."""

    def carriers(cluster: Cluster, pins: Pins) -> set[str]:
        found = model_splits(Pricer(_graph(batch=8), cluster), Goal(allow=("precision",), pins=pins), like=None)
        return {item.strategy.exchange.transport for item in found}

    here, apart = build.machine(build.processor(cores=4)), _hosts()
    assert carriers(here, Pins(tensor=2, sharding="none")) == {"shared_memory"}
    assert carriers(here, Pins(tensor=2, shard=2, sharding="parameters")) == {"gloo"}
    assert carriers(here, Pins(tensor=2, reduction="bfloat16")) == {"gloo"}
    assert carriers(here, Pins(tensor=2, sharding="none", transport="gloo")) == {"gloo"}
    assert carriers(apart, Pins(tensor=2, sharding="none")) == {"gloo"}
    unmeasured = replace(here, links=tuple(replace(link, collectives=()) for link in here.links))
    assert carriers(unmeasured, Pins(tensor=2, sharding="none")) == {"gloo"}


def test_what_nobody_else_fits_is_split() -> None:
    """512 MB of parameters, gradients and state and 200 MB of context; 450 MB a host keep a quarter of them."""
    graph, cluster = _graph(layers=32, batch=1), _hosts(memory=450 * MB)
    found = shortlist(graph, cluster, Goal())
    assert found.candidates
    assert all(item.strategy.mesh.splits_the_model and item.fits for item in found.candidates)
    assert max(item.memory_limit for item in found.candidates) == 450 * MB
    plan = choose(graph, cluster, Goal(), found)
    assert plan.strategy == found.candidates[0].strategy
    assert [item.summary for item in plan.candidates if not item.fits] == [
        item.strategy.summary for item in found.too_large
    ]
    assert plan.prediction.collectives


def test_the_memory_of_a_host_is_shared_by_the_workers_on_it() -> None:
    graph, cluster = _graph(), build.machine(build.processor(memory=1000 * MB))
    found = model_splits(Pricer(graph, cluster), Goal(), like=None)
    assert {item.memory_limit for item in found} == {500 * MB}
    assert shortlist(graph, _hosts(memory=1000 * MB), Goal()).candidates[0].memory_limit == 1000 * MB


def test_a_step_that_is_another_one_every_time_is_not_split() -> None:
    for trait in ("data_dependent", "batch_statistics"):
        graph = _graph(traits=(trait,))
        assert model_splits(Pricer(graph, _hosts()), Goal(), like=None) == ()


def test_pins_for_whole_models_leave_no_split() -> None:
    pricer = Pricer(_graph(), _hosts())
    for pins in (Pins(workers=1), Pins(compiled=True), Pins(updates="local"), Pins(compression="int8")):
        assert model_splits(pricer, Goal(pins=pins), like=None) == ()
    assert model_splits(pricer, Goal(pins=Pins(pipeline=1, context=1)), like=None)
    assert not any(item.strategy.mesh.pp > 1 for item in model_splits(pricer, Goal(pins=Pins(pipeline=1)), like=None))


def test_stages_of_an_automatic_pipeline_are_told() -> None:
    graph, cluster = _graph(layers=32), _hosts(memory=450 * MB)
    goal = Goal(pins=Pins(tensor=1, pipeline=4))
    plan = choose(graph, cluster, goal, shortlist(graph, cluster, goal))
    assert [stage.worker for stage in plan.stages] == [0, 1, 2, 3]
    assert sum(stage.blocks for stage in plan.stages) == 32
    assert max(stage.memory for stage in plan.stages) == plan.prediction.memory.peak


def test_what_several_hosts_would_do_is_set_against_what_was_tried_on_one() -> None:
    """The trial of one worker took twice its prediction, and so would all four: they are still faster."""
    graph, cluster = _graph(batch=400), _hosts()
    found = shortlist(graph, cluster, Goal())
    alone = [index for index, item in enumerate(found.candidates) if item.strategy.num_workers == 1]
    steps = {index: TrialResult(step=2 * found.candidates[index].prediction.time.step) for index in alone}
    plan = choose(graph, cluster, Goal(), found, steps)
    assert plan.strategy.num_workers == 4
    assert plan.prediction.basis == "model"
