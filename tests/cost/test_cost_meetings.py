"""Prices of islands that train apart, on the machine of round figures: 8 MB of parameters, 1 GB/s between workers."""

from dataclasses import replace

import pytest

import planning_builders as build
from meshwright.cost import Compression, Exchange, Mesh, Updates, Worker, predict
from meshwright.cost._meetings import kept_size, meetings, slowest_island
from meshwright.cost._workload import Workload
from meshwright.hardware import Cluster

GRAPH = build.multilayer()
WORKLOAD = Workload(GRAPH)
SIZE = 8e6
COPYING = 100e9


def _apart(updates: Updates | None, **choices: object):
    return build.two_workers(exchange=Exchange(updates=updates, **choices))


def _meetings(updates: Updates, **choices: object):
    return meetings(
        WORKLOAD, build.machine(), _apart(updates, **choices), step=1e-3, busy=0.0, copying=COPYING
    )  # fmt: skip


def test_a_meeting_is_one_sum_of_the_parameters_in_an_interval():
    """8 MB at 1 GB/s after 0.1 ms, a sixteenth of it a step; 28 passes over 8 MB at 100 GB/s."""
    found = _meetings(Updates(kind="local", interval=16))
    assert found.exposed == pytest.approx((1e-4 + SIZE / 1e9) / 16)
    assert found.passes == pytest.approx(28 * SIZE / 100e9 / 16)
    (sum_,) = found.collectives
    assert (sum_.axis, sum_.size) == ("islands", SIZE / 16)


def test_steps_that_go_on_meanwhile_hide_a_meeting():
    """Two fragments of 4 ms and 0.1 ms latency each, three steps of 1 ms for either: 1.1 ms of each is waited for."""
    found = _meetings(Updates(kind="local", interval=16, fragments=2, delay=3))
    assert found.exposed == pytest.approx(2 * 1.1e-3 / 16)
    assert _meetings(Updates(kind="local", interval=16, fragments=2, delay=7)).exposed == 0.0


def test_compressed_meetings_send_less_and_take_encoding():
    exact = _meetings(Updates(kind="local", interval=16))
    rounded = _meetings(Updates(kind="local", interval=16), compression=Compression(method="int8"))
    assert rounded.collectives[0].size == pytest.approx(exact.collectives[0].size * 0.2539, rel=1e-3)
    assert rounded.exposed < exact.exposed


def test_a_slow_link_makes_meetings_with_a_server_rarer_not_steps_longer():
    """There and back 16.2 ms, or 17 steps of 1 ms: an interval of 4 is not kept, one of 64 is."""
    often = _meetings(Updates(kind="asynchronous", interval=4))
    seldom = _meetings(Updates(kind="asynchronous", interval=64))
    assert often.exposed == seldom.exposed == 0.0
    assert (often.interval, seldom.interval) == (17, 64)
    assert seldom.collectives[0].size == pytest.approx(2 * SIZE / 64)


def test_shared_memory_is_no_exchange():
    assert _meetings(Updates(kind="shared")).exposed == 0.0
    price = predict(GRAPH, build.machine(), _apart(Updates(kind="shared")))
    assert price.time.communication == 0.0
    assert price.collectives == ()


def test_what_islands_keep():
    """Anchor, momentum, message and what was sent; with a server its three copies and one for each island more."""
    assert kept_size(WORKLOAD, _apart(Updates(kind="local"))) == 4 * SIZE
    assert kept_size(WORKLOAD, _apart(Updates(kind="asynchronous"))) == 9 * SIZE
    assert kept_size(WORKLOAD, _apart(None)) == 0
    apart = predict(GRAPH, build.machine(), _apart(Updates(kind="local"))).memory
    together = predict(GRAPH, build.machine(), _apart(None)).memory
    assert apart.communication - together.communication == 4 * SIZE


def _hosts() -> Cluster:
    """Two hosts of two cores; 10 MB/s between them."""
    here = build.machine()
    network = replace(here.links[0], tier="network", latency=1e-3, bandwidth=10e6, collectives=())
    return replace(here, hosts=(replace(here.hosts[0], name="node", count=2),), links=(*here.links, network))


def test_islands_exchange_exactly_inside_a_host_and_seldom_between_hosts():
    """Four workers, two on each host: 8 MB inside the host in every step, both workers' 8 MB between hosts in 16."""
    workers = tuple(Worker(rank=rank, host=f"node-{rank // 2}", device="cpu", threads=1) for rank in range(4))
    batch = replace(build.two_workers().batch, shares=(1,) * 4)
    base = replace(build.two_workers(), workers=workers, mesh=Mesh(dp_replicate=4), batch=batch)
    apart = replace(base, exchange=Exchange(updates=Updates(kind="local", interval=16)))
    inner = slowest_island(apart)
    assert (inner.num_workers, inner.batch.size, len({worker.host for worker in inner.workers})) == (2, 50, 1)
    outer = meetings(WORKLOAD, _hosts(), apart, step=1e-3, busy=0.0, copying=COPYING)
    assert outer.exposed == pytest.approx((2e-3 + 2 * SIZE / 10e6) / 16)
    times = {name: predict(GRAPH, _hosts(), strategy).time for name, strategy in (("every", base), ("apart", apart))}
    assert times["apart"].step < 0.2 * times["every"].step
    assert times["apart"].forward == times["every"].forward
