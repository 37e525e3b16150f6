"""How fast processes of one host exchange tensors: each collective's latency and bandwidth."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from statistics import median
from time import perf_counter

import torch
from torch import distributed as dist

from meshwright.hardware._cluster import CollectiveName, CollectiveRate
from meshwright.hardware.probe_workers import Member
from meshwright.units import KIB, MIB, Bytes, BytesPerSecond, Seconds

COLLECTIVES: tuple[CollectiveName, ...] = ("all_reduce", "all_gather", "reduce_scatter", "broadcast")
SMALL: Bytes = 1 * KIB
LARGE: Bytes = 8 * MIB
SMALL_CALLS = 60
LARGE_CALLS = 6
FLOAT: Bytes = 4
TIMEOUT = timedelta(seconds=60)


def collective_rates(member: Member, transport: str, device: torch.device) -> list[CollectiveRate]:
    """Latency and bandwidth of every collective in the process group; called by all members at the same time.

    Args:
        member: this process.
        transport: the group's backend: `gloo`, `nccl`, …
        device: that holds this member's tensors.
    """
    return [_rate(name, member, transport=transport, device=device) for name in COLLECTIVES]


def fitted_rate(
    small: Seconds, large: Seconds, *, sizes: tuple[Bytes, Bytes] = (SMALL, LARGE)
) -> tuple[Seconds, BytesPerSecond]:
    """Latency and bandwidth of the line through the times of a small and a large message.

    Args:
        small: time of the small one (s).
        large: time of the large one (s); where noise makes it no longer than `small`, the latency counts as nothing.
        sizes: of both (B).
    """
    if large <= small:
        return 0.0, sizes[1] / large
    bandwidth = (sizes[1] - sizes[0]) / (large - small)
    return max(small - sizes[0] / bandwidth, 0.0), bandwidth


def median_duration(run: Callable[[], object], calls: int) -> Seconds:
    """Median time of a call on this member; every member makes as many calls, or they would wait forever."""
    run()
    samples = []
    for _ in range(calls):
        start = perf_counter()
        run()
        samples.append(perf_counter() - start)
    return median(samples)


def _rate(name: CollectiveName, member: Member, *, transport: str, device: torch.device) -> CollectiveRate:
    small = median_duration(_collective(name, SMALL, member.group, device), SMALL_CALLS)
    large = median_duration(_collective(name, LARGE, member.group, device), LARGE_CALLS)
    latency, bandwidth = fitted_rate(small, large)
    return CollectiveRate(
        collective=name, transport=transport, group=member.group, latency=latency, bandwidth=bandwidth
    )


def _collective(name: CollectiveName, size: Bytes, group: int, device: torch.device) -> Callable[[], object]:
    """The collective on a whole tensor of about `size` bytes (a multiple of its parts), waited for."""
    part = torch.zeros(max(1, size // (FLOAT * group)), device=device)
    whole = torch.zeros(part.numel() * group, device=device)
    run = {
        "all_reduce": lambda: dist.all_reduce(whole),
        "all_gather": lambda: dist.all_gather_single(whole, part),
        "reduce_scatter": lambda: dist.reduce_scatter_single(part, whole),
        "broadcast": lambda: dist.broadcast(whole, src=0),
    }[name]
    if device.type == "cpu":
        return run

    def run_and_wait() -> None:
        run()
        torch.accelerator.synchronize(device)

    return run_and_wait


@contextmanager
def process_group(member: Member, transport: str, rendezvous: str) -> Iterator[None]:
    store = dist.FileStore(rendezvous, member.group)
    dist.init_process_group(transport, store=store, rank=member.rank, world_size=member.group, timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()
