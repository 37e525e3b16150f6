"""The exchange of gradients beside the backward."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import planning_builders as build
from meshwright.cost._communication import CollectiveCost
from meshwright.cost._timeline import Bucket, buckets, exchange_time
from meshwright.cost._workload import Workload

ONE_GB_PER_SECOND = CollectiveCost(latency=1e-3, bandwidth=1e9)


def test_a_bucket_closes_when_it_is_full() -> None:
    """Four layers of 4 MB, whose backwards end at 2, 4, 6, 8 s; buckets of 5 MB hold two each."""
    workload = Workload(build.multilayer(layers=4))
    found = buckets(workload, np.array([1.0, 1.0]), backward=8.0, bucket_size=5 * 10**6)
    assert [(bucket.ready, bucket.size) for bucket in found] == [(4.0, 8e6), (8.0, 8e6)]


def test_what_is_sent_beside_the_backward_is_not_waited_for() -> None:
    """Buckets of 9 MB take 10 ms each; ready at 10 and 40 ms, the backward ends at 40: only the second is exposed."""
    sent = [Bucket(ready=0.01, size=9e6), Bucket(ready=0.04, size=9e6)]
    time = exchange_time(sent, ONE_GB_PER_SECOND, backward=0.04, overlap=True, busy=0.0)
    assert time.exposed == pytest.approx(0.01)
    assert time.total == pytest.approx(0.02)
    assert time.slowdown == 0


def test_buckets_queue_behind_one_another() -> None:
    """Both ready at 0, the backward ends at 15 ms: 0-10, 10-20, so 5 ms are exposed."""
    sent = [Bucket(ready=0.0, size=9e6)] * 2
    time = exchange_time(sent, ONE_GB_PER_SECOND, backward=0.015, overlap=True, busy=0.0)
    assert time.exposed == pytest.approx(0.005)


def test_without_overlap_all_of_it_is_waited_for() -> None:
    sent = [Bucket(ready=0.0, size=9e6)] * 2
    time = exchange_time(sent, ONE_GB_PER_SECOND, backward=0.5, overlap=False, busy=1.0)
    assert time.exposed == pytest.approx(0.02)
    assert time.slowdown == 0


def test_a_hidden_exchange_takes_its_share_of_the_cores() -> None:
    """10 ms hidden, of which 0.6 are work on the cores that compute."""
    sent = [Bucket(ready=0.0, size=9e6)]
    time = exchange_time(sent, ONE_GB_PER_SECOND, backward=1.0, overlap=True, busy=0.6)
    assert (time.exposed, time.slowdown) == (0.0, pytest.approx(0.006))


@given(
    ready=st.lists(st.floats(0, 1), min_size=1, max_size=8),
    size=st.floats(1, 1e9),
    faster=st.floats(1, 100),
)
def test_a_faster_link_is_never_waited_for_longer(ready: list[float], size: float, faster: float) -> None:
    sent = [Bucket(ready=moment, size=size) for moment in sorted(ready)]
    slow = exchange_time(sent, ONE_GB_PER_SECOND, backward=1.0, overlap=True, busy=0.5)
    quick = CollectiveCost(latency=1e-3 / faster, bandwidth=1e9 * faster)
    fast = exchange_time(sent, quick, backward=1.0, overlap=True, busy=0.5)
    assert fast.exposed <= slow.exposed + 1e-12
    assert fast.exposed + fast.slowdown <= slow.exposed + slow.slowdown + 1e-12
