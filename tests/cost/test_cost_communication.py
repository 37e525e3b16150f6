"""Prices of collectives."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import planning_builders as build
from meshwright.cost import Exchange, Mesh, predict
from meshwright.cost._communication import collective_cost, processes_cost
from meshwright.errors import HardwareError
from meshwright.hardware import CollectiveRate
from meshwright.plan._flips import scaled_links


def test_a_measured_collective_costs_what_was_measured() -> None:
    """0.1 ms + 8 MB at 1 GB/s = 8.1 ms over gloo, a tenth of it through shared memory."""
    gloo = collective_cost(build.machine(), build.two_workers(), "all_reduce", 2)
    assert gloo.time(8e6) == pytest.approx(8.1e-3)
    shared = build.two_workers(exchange=Exchange(transport="shared_memory"))
    assert collective_cost(build.machine(), shared, "all_reduce", 2).time(8e6) == pytest.approx(0.81e-3)


def test_a_larger_group_is_derived_by_what_a_ring_moves() -> None:
    """All-reduce among 4 moves 2 · 3/4 of the tensor in 6 hops; measured among 2: all of it in 2 hops."""
    cost = collective_cost(build.machine(), build.two_workers(), "all_reduce", 4)
    assert cost.latency == pytest.approx(3e-4)
    assert cost.bandwidth == pytest.approx(1e9 / 1.5)


def test_a_link_without_measured_collectives_is_priced_as_a_ring() -> None:
    """Reduce-scatter among 8 at 200 GB/s: 7/8 of the tensor in 7 hops of 5 µs."""
    cluster = build.accelerators(hosts=1)
    worker = replace(build.one_worker().workers[0], host="node", device="cuda:0")
    strategy = replace(build.one_worker(), workers=(worker,), exchange=Exchange(transport="nccl"))
    cost = collective_cost(cluster, strategy, "reduce_scatter", 8)
    assert cost.latency == pytest.approx(35e-6)
    assert cost.bandwidth == pytest.approx(200e9 * 8 / 7)


def test_workers_without_a_link_are_refused() -> None:
    cluster = replace(build.machine(), links=())
    with pytest.raises(HardwareError, match="no link between 2 workers on 1 hosts"):
        collective_cost(cluster, build.two_workers(), "all_reduce", 2)


def test_parts_of_a_split_model_cost_what_was_measured_between_computing() -> None:
    """0.1 ms + 8 MB at 5 GB/s = 1.7 ms; a file that has no such rows prices them as buckets, 0.81 ms."""
    machine = build.machine()
    measured = CollectiveRate(
        collective="all_gather", transport="shared_memory_staged", group=2, latency=1e-4, bandwidth=5e9
    )
    link = machine.links[0]
    staged = replace(machine, links=(replace(link, collectives=(*link.collectives, measured)),))
    for cluster, expected in ((staged, 1.7e-3), (machine, 0.81e-3)):
        cost = processes_cost(
            cluster, collective="all_gather", group=2, transport="shared_memory_staged", num_hosts=1
        )  # fmt: skip
        reduced = 1 if cluster is staged else 2  # what a ring of two moves for an all-reduce is twice as much
        assert cost.time(8e6) == pytest.approx(expected / reduced)


def test_one_worker_exchanges_nothing() -> None:
    prediction = predict(build.multilayer(), build.machine(), build.one_worker())
    assert prediction.collectives == ()
    assert prediction.time.communication == 0


def test_sharding_levels_exchange_what_they_must() -> None:
    """Gradients 8 MB: all-reduced, or reduce-scattered and the updated parameters handed out; parameters in shards are
    gathered before the forward and before the backward, 16 MB."""
    sizes = {}
    for sharding, mesh in (
        ("none", Mesh(dp_replicate=2)),
        ("optimizer", Mesh(dp_shard=2)),
        ("gradients", Mesh(dp_shard=2)),
        ("parameters", Mesh(dp_shard=2)),
    ):
        strategy = build.two_workers(mesh=mesh, sharding=sharding)
        prediction = predict(build.multilayer(), build.machine(), strategy)
        sizes[sharding] = {item.name: item.size for item in prediction.collectives if item.axis != "loss"}
    assert sizes == {
        "none": {"all_reduce": 8_000_000},
        "optimizer": {"all_reduce": 8_000_000, "broadcast": 8_000_000},
        "gradients": {"reduce_scatter": 8_000_000, "broadcast": 8_000_000},
        "parameters": {"reduce_scatter": 8_000_000, "all_gather": 16_000_000},
    }


@given(times=st.floats(1, 100))
def test_a_faster_exchange_never_makes_a_step_slower(times: float) -> None:
    machine, graph, strategy = build.machine(), build.multilayer(), build.two_workers()
    faster = predict(graph, scaled_links(machine, times), strategy).time.step
    assert faster <= predict(graph, machine, strategy).time.step + 1e-12
