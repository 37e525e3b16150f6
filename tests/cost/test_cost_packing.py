"""What sums of packed gradients cost, by hand."""

from dataclasses import replace

import pytest

from meshwright.cost import Batch, Compression, Exchange, Precision, Strategy, Worker
from meshwright.cost._communication import CollectiveCost
from meshwright.cost._packing import is_packed, packed_cost

PACKED = Strategy(
    workers=tuple(Worker(rank=rank, host=f"{rank}", device="cpu", threads=1) for rank in range(2)),
    batch=Batch(size=4, shares=(1, 1)),
    exchange=Exchange(transport="direct_packed"),
)


def test_a_slow_link_carries_less_and_a_fast_one_waits_for_coding():
    """At 10 MB/s 0.844 of the bytes; at 10 GB/s 32 + 21 copies, each read and written at 20 GB/s: 5.3 ns a byte."""
    slow = packed_cost(CollectiveCost(latency=1e-3, bandwidth=10e6), PACKED, group=2, copying=20e9)
    assert slow == CollectiveCost(latency=1e-3, bandwidth=pytest.approx(10e6 / 0.844))
    fast = packed_cost(CollectiveCost(latency=1e-3, bandwidth=10e9), PACKED, group=2, copying=20e9)
    assert fast.bandwidth == pytest.approx(1 / 5.3e-9)


def test_halves_lose_more_and_what_is_compressed_nothing():
    halves = replace(PACKED, precision=Precision(reduction="bfloat16"))
    cost = packed_cost(CollectiveCost(latency=0.0, bandwidth=10e6), halves, group=2, copying=20e9)
    assert cost.bandwidth == pytest.approx(10e6 / 0.69)
    assert not is_packed(replace(PACKED, exchange=replace(PACKED.exchange, compression=Compression(method="int8"))))
