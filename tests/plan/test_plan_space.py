"""What is legal, and what the solver considers."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import planning_builders as build
from meshwright.cost import Strategy
from meshwright.errors import PlanError
from meshwright.graph import Graph
from meshwright.hardware import Cluster, Host, Link
from meshwright.plan import Goal, Pins, choice, shortlist
from meshwright.plan._space import strategies


def _space(graph: Graph | None = None, cluster: Cluster | None = None, goal: Goal | None = None) -> list[Strategy]:
    return list(
        strategies(
            graph or build.multilayer(), cluster or build.machine(), goal or Goal(),
            shares=lambda workers: (1,) * len(workers),
        )
    )  # fmt: skip


def _values(space: list[Strategy], name: str) -> set[object]:
    return {choice(strategy, name) for strategy in space}


def _refusal(pins: Pins, graph: Graph | None = None, cluster: Cluster | None = None) -> str:
    with pytest.raises(PlanError) as raised:
        shortlist(graph or build.multilayer(), cluster or build.machine(), Goal(pins=pins))
    return str(raised.value)


def test_two_cores_give_three_layouts() -> None:
    layouts = {(strategy.num_workers, strategy.workers[0].threads) for strategy in _space()}
    assert layouts == {(1, 1), (1, 2), (2, 1)}


def test_every_worker_is_pinned_to_cores_of_its_own() -> None:
    cluster = build.machine(build.processor(cores=4))
    for strategy in _space(cluster=cluster, goal=Goal(pins=Pins(accumulation=1, recompute="none"))):
        cores = [core for worker in strategy.workers for core in worker.cores]
        assert len(cores) == len(set(cores)) == strategy.num_workers * strategy.workers[0].threads


def test_choices_that_were_measured_and_exact_are_offered() -> None:
    space = _space()
    assert _values(space, "matrix_library") == {"default", "onednn"}
    assert _values(space, "allocator") == {"retained"}, "a trial cannot compare it; the other has to be pinned"
    assert _values(space, "optimizer") == {"as_written", "fused"}
    assert _values(space, "transport") == {"gloo", "shared_memory"}
    assert _values(space, "sharding") == {"none", "optimizer", "gradients", "parameters"}
    assert _values(space, "memory_format") == {"as_written"}
    assert _values(space, "compiled") == {False}


def test_inexact_matrices_are_not_offered() -> None:
    cluster = build.machine(build.processor(onednn_exact=False))
    assert _values(_space(cluster=cluster), "matrix_library") == {"default"}


def test_batch_norm_forbids_micro_batches_and_recomputation() -> None:
    space = _space(build.multilayer(traits=("batch_norm",)))
    assert _values(space, "accumulation") == {1}
    assert _values(space, "recompute") == {"none"}
    assert _values(space, "workers") == {1, 2}


def test_coupled_examples_stay_on_one_worker() -> None:
    assert _values(_space(build.multilayer(traits=("batch_statistics",))), "workers") == {1}


@given(batch=st.integers(1, 40))
def test_every_worker_has_an_example_for_every_micro_batch(batch: int) -> None:
    for strategy in _space(build.multilayer(batch=batch), goal=Goal(pins=Pins(allocator="default"))):
        assert strategy.num_workers * strategy.batch.accumulation <= batch


def test_shared_memory_does_not_carry_sharded_parameters_nor_leave_the_host() -> None:
    for strategy in _space():
        if strategy.exchange.transport == "shared_memory":
            assert strategy.sharding != "parameters"
    hosts = (Host(name="node", count=2, device=build.processor()),)
    cluster = replace(build.machine(), hosts=hosts)
    across = [item for item in _space(cluster=cluster) if len({worker.host for worker in item.workers}) > 1]
    assert across
    assert _values(across, "transport") == {"gloo", "hierarchical", "direct", "direct_packed"}
    for strategy in across:
        alone = len({worker.host for worker in strategy.workers}) == strategy.num_workers
        assert strategy.exchange.transport in (
            ("gloo", "direct", "direct_packed") if alone else ("gloo", "hierarchical")
        )


def test_exponents_are_packed_where_the_link_is_slow_enough_and_direct_connections_may_be_asked_for() -> None:
    hosts = (Host(name="node", count=2, device=build.processor(cores=1)),)
    machine = build.machine()
    for bandwidth, expected in ((12.5e6, "direct_packed"), (12.5e9, "direct")):
        link = Link(tier="network", latency=2e-4, bandwidth=bandwidth)
        cluster = replace(machine, hosts=hosts, links=(*machine.links, link))
        steps = {
            name: shortlist(build.multilayer(), cluster, Goal(pins=Pins(workers=2, transport=name)))
            .candidates[0]
            .prediction.time.step
            for name in ("direct", "direct_packed")
        }
        assert min(steps, key=steps.__getitem__) == expected
    pinned = _space(goal=Goal(pins=Pins(workers=2, transport="direct")))
    assert pinned
    assert _values(pinned, "transport") == {"direct"}


def test_accelerators_are_used_in_doublings_and_sharded_within_replicas() -> None:
    space = _space(cluster=build.accelerators(hosts=1, devices=4))
    assert _values(space, "workers") == {1, 2, 4}
    assert {(item.mesh.dp_replicate, item.mesh.dp_shard) for item in space if item.num_workers == 4} == {
        (4, 1), (2, 2), (1, 4),
    }  # fmt: skip
    assert _values(space, "transport") == {"gloo", "nccl"}  # a single worker exchanges nothing


def test_unequal_devices_get_shares_by_their_speed() -> None:
    """One accelerator three times as fast as the other: 75 of 100 examples."""
    fast = build.accelerators().hosts[0].device
    slow = replace(fast, name="slow", matrix_rates=tuple(replace(row, rate=row.rate / 3) for row in fast.matrix_rates))
    hosts = tuple(Host(name=name, device=device) for name, device in (("a", fast), ("b", slow)))
    graph = build.multilayer(batch=100)
    cluster = replace(build.accelerators(), hosts=hosts)
    found = shortlist(graph, cluster, Goal(pins=Pins(workers=2, pipeline=1, accumulation=1, recompute="none")))
    best = found.candidates[0].strategy
    assert sum(best.batch.shares) == 100
    assert best.batch.shares[0] == pytest.approx(75, abs=3)


def test_pins_are_obeyed() -> None:
    goal = Goal(pins=Pins(workers=2, sharding="optimizer", accumulation=3, transport="gloo", bucket_size=1000))
    space = _space(goal=goal)
    assert space
    for name, value in (("workers", 2), ("sharding", "optimizer"), ("accumulation", 3), ("bucket_size", 1000)):
        assert _values(space, name) == {value}


def test_too_many_workers() -> None:
    assert _refusal(Pins(workers=5)) == (
        "workers = 5 is not possible here\n"
        "  because: by-hand has 2 cores and the batch has 100 examples\n"
        "  instead: legal values of workers: 1 to 2\n"
        "  next:    meshwright plan SCRIPT, without workers"
    )


def test_more_workers_than_examples() -> None:
    """Of a model that cannot be cut."""
    graph = build.multilayer(batch=1, blocks=False)
    assert "legal values of workers: 1\n" in _refusal(Pins(workers=2), graph)


def test_accumulation_with_batch_norm() -> None:
    assert _refusal(Pins(accumulation=4), build.multilayer(traits=("batch_norm",))) == (
        "accumulation = 4 is not possible here\n"
        "  because: statistics are taken over the whole batch, which micro-batches would change\n"
        "  instead: legal values of accumulation: 1\n"
        "  next:    meshwright plan SCRIPT, without accumulation"
    )


def test_recomputation_without_blocks() -> None:
    message = _refusal(Pins(recompute="all"), build.multilayer(blocks=False))
    assert "because: the model has no repeated blocks\n  instead: legal values of recompute: 'none'" in message


def test_inexact_matrices_pinned() -> None:
    message = _refusal(Pins(matrix_library="onednn"), cluster=build.machine(build.processor(onednn_exact=False)))
    assert "because: oneDNN's matrices were not measured, or not exact, on round figures" in message


@pytest.mark.parametrize(
    ("pins", "legal"),
    [
        (Pins(transport="nccl"), "transport: 'gloo', 'shared_memory', 'hierarchical', 'direct', 'direct_packed'"),
        (Pins(shard=3), "shard: 1 to 2"),
        (Pins(threads=4), "threads: 1 to 2"),
        (Pins(random="sfc64"), "random: 'default'"),
        (Pins(memory_format="channels_last"), "memory_format: 'as_written'"),
        (Pins(islands=2), "islands: 1"),
        (Pins(interval=10), "interval: 1"),
        (Pins(outer_momentum=0.9), "outer_momentum: 0.0"),
        (Pins(compression_share=0.01), "compression_share: 1.0"),
    ],
)
def test_a_single_pin_out_of_range_names_what_is_in_range(pins: Pins, legal: str) -> None:
    assert f"instead: legal values of {legal}\n" in _refusal(pins)


def test_what_departs_from_nothing_may_be_pinned() -> None:
    assert _space(goal=Goal(pins=Pins(islands=1, interval=1, delay=0, compression_rank=0)))


def test_shares_that_follow_accelerators_are_refused() -> None:
    """They were said to be pinned, and stayed as they were."""
    message = _refusal(Pins(sharing="adaptive"), cluster=build.accelerators())
    assert "instead: legal values of sharing: 'fixed'\n" in message


def test_degrees_that_do_not_make_the_workers() -> None:
    assert _refusal(Pins(workers=2, data=2, shard=2)).startswith(
        "data = 2 × shard = 2 does not make workers = 2\n  instead: data × shard = 2"
    )


def test_degrees_that_take_more_workers_than_there_is_room_for() -> None:
    assert _refusal(Pins(data=2, shard=2)).startswith(
        "data = 2 × shard = 2 takes 4 workers, and by-hand has room for 2\n"
    )


def test_sharding_on_one_worker() -> None:
    assert _refusal(Pins(workers=1, sharding="parameters")).startswith(
        "sharding = 'parameters' needs at least 2 workers, and workers = 1\n  instead: sharding = 'none'"
    )


def test_pins_that_contradict_each_other() -> None:
    message = _refusal(Pins(sharding="parameters", transport="shared_memory"))
    assert message.startswith(
        "no strategy of Multilayer on by-hand agrees with all of: sharding = 'parameters', transport = 'shared_memory'"
    )
    assert "instead: leave out transport" in message


def test_buckets_between_hosts_are_as_small_as_the_link_allows() -> None:
    """20 × 0.2 ms × 12.5 MB/s are 50 kB: 256 KiB is enough; on a fast link of high latency 25 MiB is not."""
    hosts = (Host(name="node", count=2, device=build.processor()),)
    slow = Link(tier="network", latency=2e-4, bandwidth=12.5e6)
    for link, expected in ((slow, {2**18, 2**22, 25 * 2**20}), (replace(slow, bandwidth=10e9), {2**22, 25 * 2**20})):
        machine = build.machine()
        cluster = replace(machine, hosts=hosts, links=(*machine.links, link))
        across = [item for item in _space(cluster=cluster) if len({worker.host for worker in item.workers}) > 1]
        assert {item.exchange.bucket_size for item in across} == expected
