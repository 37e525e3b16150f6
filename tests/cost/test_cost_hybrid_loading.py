"""A step takes the longer of computing and of loading its batches, by hosts of which that is known."""

import random
from dataclasses import replace

import pytest

import search_builders as build
from meshwright.cost import Mesh
from meshwright.cost.hybrid import HybridPricer, Layout, Replica
from meshwright.graph import Graph, Linear
from meshwright.hardware import Cluster, parse_cluster
from meshwright.plan import Goal, plan_outright

_EXAMPLE = 10**6


def _case(loading: float) -> tuple[Graph, Cluster]:
    """Examples of a megabyte, and one host of two devices."""
    graph = replace(build.random_graph(random.Random(3)), batch_bytes=Linear(per_example=_EXAMPLE))
    cluster = parse_cluster("h100:2")
    return graph, replace(cluster, hosts=(replace(cluster.hosts[0], loading=loading),))


def _apart(graph: Graph) -> Layout:
    """Two data ranks on the two devices, each with half of the batch."""
    return Layout(mesh=Mesh(dp_replicate=2), replicas=(Replica(count=2, kinds=(0,), examples=graph.batch_size / 2),))


def test_a_slow_disk_is_waited_for() -> None:
    graph, cluster = _case(1e6)
    price = HybridPricer(graph, cluster).price(_apart(graph))
    assert price.loading == pytest.approx(graph.batch_size)  # a second for each example of the whole batch
    assert price.step == pytest.approx(price.loading)


def test_a_fast_one_is_not() -> None:
    slow, fast, unknown = (HybridPricer(*_case(rate)).price(_apart(_case(0.0)[0])) for rate in (1e6, 1e18, 0.0))
    assert slow.step > fast.step == unknown.step
    assert unknown.loading == 0


def test_workers_that_split_a_model_read_the_same_examples() -> None:
    """Each of them reads the whole share of its data rank: twice as much for the host."""
    graph, cluster = _case(1e6)
    layout = Layout(mesh=Mesh(pp=2), replicas=(Replica(count=1, kinds=(0, 0), examples=float(graph.batch_size)),))
    assert HybridPricer(graph, cluster).loading.longest(layout) == pytest.approx(2.0 * graph.batch_size)


def test_a_plan_says_what_binds_and_what_is_not_known() -> None:
    slow = plan_outright(*_case(1e6), Goal())
    assert slow.binding.startswith("loading of batches: a host reads ")
    assert slow.prediction.loading == pytest.approx(slow.prediction.time.step)
    unknown = plan_outright(*_case(0.0), Goal())
    assert any(flip.startswith("a host that loads less than ") and "not priced" in flip for flip in unknown.flips)
