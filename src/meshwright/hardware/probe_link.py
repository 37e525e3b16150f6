"""How fast hosts exchange tensors with one another: measured in about a second, before a run over them is planned."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from time import perf_counter

import torch
from torch import distributed as dist

from meshwright.hardware._cluster import CollectiveName, CollectiveRate, Link
from meshwright.hardware.probe_transports import COLLECTIVES as CARRIED
from meshwright.hardware.probe_transports import Transport, carried
from meshwright.units import KIB, MIB, Bytes, BytesPerSecond, Seconds

COLLECTIVES: tuple[CollectiveName, ...] = ("all_reduce", "all_gather", "reduce_scatter", "broadcast")
SMALL: Bytes = 1 * KIB
SMALL_CALLS = 10
# First a message that takes 0.2 s at 100 Mbit/s; where that is through at once, one that tells a fast link's speed.
SLOW: Bytes = 2 * MIB
FAST: Bytes = 16 * MIB
AT_ONCE: Seconds = 20e-3
LARGE_CALLS = 2
FLOAT: Bytes = 4
TIMEOUT = timedelta(seconds=120)


def link_between(
    store: dist.Store, *, rank: int, num_hosts: int, transports: Mapping[str, Callable[[], Transport]]
) -> Link:
    """The link between hosts, one process of each of which calls this at the same time.

    Args:
        store: that all of them have.
        rank: of this host.
        num_hosts: how many.
        transports: that are measured beside gloo, by name; they are of rooms above this one.

    Returns:
        The link as host 0 found it; on the others as they did.
    """
    dist.init_process_group("gloo", store=store, rank=rank, world_size=num_hosts, timeout=TIMEOUT)
    try:
        rows = [_rate(name, "gloo", num_hosts, partial(_collective, name, group=num_hosts)) for name in COLLECTIVES]
        for transport_name, make in transports.items():
            transport = make()
            rows += [_rate(name, transport_name, num_hosts, partial(carried, transport, name)) for name in CARRIED]
            transport.close()
    finally:
        dist.destroy_process_group()
    whole = rows[0]
    hops, moved = 2 * (num_hosts - 1), 2 * (num_hosts - 1) / num_hosts
    return Link(
        tier="network", latency=whole.latency / hops, bandwidth=whole.bandwidth * moved, collectives=tuple(rows)
    )


def _rate(
    name: CollectiveName, transport: str, num_hosts: int, of_size: Callable[[Bytes], Callable[[], object]]
) -> CollectiveRate:
    small = _duration(of_size(SMALL), SMALL_CALLS)
    size, large = SLOW, _duration(of_size(SLOW), LARGE_CALLS)
    if large < AT_ONCE:
        size, large = FAST, _duration(of_size(FAST), LARGE_CALLS)
    bandwidth: BytesPerSecond = (size - SMALL) / max(large - small, 1e-9)
    return CollectiveRate(
        collective=name,
        transport=transport,
        group=num_hosts,
        latency=max(small - SMALL / bandwidth, 0.0),
        bandwidth=bandwidth,
    )


def _duration(run: Callable[[], object], calls: int) -> Seconds:
    """Shortest time of a call, as the slowest host saw it: so all hosts decide alike."""
    run()
    samples = []
    for _ in range(calls):
        started = perf_counter()
        run()
        samples.append(perf_counter() - started)
    shortest = torch.tensor(min(samples), dtype=torch.float64)
    dist.all_reduce(shortest, dist.ReduceOp.MAX)
    return float(shortest)


def _collective(name: CollectiveName, size: Bytes, *, group: int) -> Callable[[], object]:
    part = torch.zeros(max(1, size // (FLOAT * group)))
    whole = torch.zeros(part.numel() * group)
    return {
        "all_reduce": lambda: dist.all_reduce(whole),
        "all_gather": lambda: dist.all_gather_single(whole, part),
        "reduce_scatter": lambda: dist.reduce_scatter_single(part, whole),
        "broadcast": lambda: dist.broadcast(whole, src=0),
    }[name]
