"""Prices of compressed gradients: bytes by hand, and that a slow link is worth an encoding and a fast one is not."""

from dataclasses import replace

import pytest

import planning_builders as build
from meshwright.cost import Batch, Compression, Exchange, Mesh, Precision, Strategy, Worker, lossy_cost
from meshwright.cost._communication import CollectiveCost
from meshwright.cost._lossy import carried_size, sent_share
from meshwright.cost._workload import Workload


def _strategy(compression: Compression | None, *, workers: int = 2, reduction: str = "as_written") -> Strategy:
    return Strategy(
        workers=tuple(Worker(rank=rank, host="here", device="cpu", threads=1) for rank in range(workers)),
        mesh=Mesh(dp_replicate=workers),
        batch=Batch(size=32, shares=(1,) * workers),
        precision=Precision(reduction=reduction),
        exchange=Exchange(compression=compression),
    )


WORKLOAD = Workload(build.multilayer(layers=2, batch=32))


def test_messages_by_hand():
    """1024 elements: 1024 bytes and two blocks' 16; 512 and 8; 128 and 8; 11 of 4 bytes; 11 of 2 bytes."""
    expected = {"int8": 1040, "int4": 520, "sign": 136, "top_k": 44, "random_k": 22}
    assert {name: Compression(method=name).message(1024) for name in expected} == expected


def test_factors_by_hand():
    """100 × 50 in rank 4: 600 elements instead of 5000; a vector whole; 4 × 4 in rank 4 would be more than itself."""
    choice = Compression(method="powersgd", rank=4)
    assert [choice.factors(shape) for shape in ((100, 50), (7,), (4, 4))] == [2400, 28, 64]


@pytest.mark.parametrize(
    ("workers", "method", "share"),
    [(2, "int8", 0.25390625), (4, "int8", 1.5 * 0.25390625), (4, "top_k", 3 * 0.01), (2, "random_k", 0.005)],
)
def test_what_a_worker_sends(workers, method, share):
    """Two workers exchange whole messages, four parts of them; positions of top-k go from everyone to everyone."""
    found = sent_share(_strategy(Compression(method=method), workers=workers), WORKLOAD, group=workers)
    assert found == pytest.approx(share, rel=1e-3)


def test_sixteen_bits_are_half():
    assert sent_share(_strategy(None, reduction="bfloat16"), WORKLOAD, group=4) == 0.75


def test_a_slow_link_is_worth_the_encoding_and_memory_is_not():
    slow = CollectiveCost(latency=1e-4, bandwidth=12.5e6)
    fast = CollectiveCost(latency=1e-5, bandwidth=20e9)
    for method in ("int8", "int4", "sign", "top_k", "random_k"):
        strategy = _strategy(Compression(method=method))
        size, copying = 40e6, 10e9
        assert lossy_cost(slow, strategy, WORKLOAD, group=2, copying=copying).cost.time(size) < 0.4 * slow.time(size)
        if method != "random_k":
            assert lossy_cost(fast, strategy, WORKLOAD, group=2, copying=copying).cost.time(size) > fast.time(size)


def test_how_long_a_core_codes_by_hand():
    """Two workers, int8: 11.8 copies of 2 bytes moved for each byte, against 0.254 bytes on the link."""
    link = CollectiveCost(latency=0.0, bandwidth=1e9)
    found = lossy_cost(link, _strategy(Compression(method="int8")), WORKLOAD, group=2, copying=10e9).coding
    assert found == pytest.approx(2.36 / (2.36 + 0.25390625), rel=1e-3)
    rounded = _strategy(None, reduction="bfloat16")
    beside = replace(rounded, exchange=Exchange(transport="direct"))
    found = lossy_cost(link, rounded, WORKLOAD, group=2, copying=10e9)
    assert found.coding == pytest.approx(0.56 / (0.56 + 0.5), rel=1e-3)
    assert lossy_cost(link, beside, WORKLOAD, group=2, copying=10e9).coding == pytest.approx(1.0)


def test_what_is_carried_takes_memory():
    elements = WORKLOAD.trainable_elements
    assert carried_size(_strategy(Compression(method="int8")), WORKLOAD) == 4 * elements
    assert carried_size(_strategy(Compression(method="sign")), WORKLOAD) == 8 * elements
    assert carried_size(_strategy(None), WORKLOAD) == 0


def test_the_search_takes_compression_where_it_is_allowed_and_pays():
    from meshwright.plan import Goal, choose, shortlist

    graph = build.multilayer(layers=4, batch=2048)
    cluster = build.machine(latency=1e-3, bandwidth=5e6)
    links = tuple(replace(link, collectives=()) for link in cluster.links)
    cluster = replace(cluster, links=links)
    goal = Goal(allow=("compression",), pins=replace(Goal().pins, workers=2, pipeline=1))
    assert choose(graph, cluster, goal, shortlist(graph, cluster, goal)).strategy.exchange.compression is not None
    exact = replace(goal, allow=())
    assert choose(graph, cluster, exact, shortlist(graph, cluster, exact)).strategy.exchange.compression is None
