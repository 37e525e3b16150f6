"""How long the parts of a split model take to exchange: tensors from anywhere, between stretches of computing.

What gradients' buckets reach is another matter (`probe_transports`): they lie where all workers see them, and a probe
that sends one of them again and again finds it in the cache. A split model's workers compute for a millisecond or two,
copy what they made to where the others see it, wait for the slowest of them, read, and put the parts together along the
sequence. So that is what is timed: a product and a sum, then a collective on a part of a block that no cache holds;
less what the computing takes alone.
"""

from collections.abc import Callable
from itertools import cycle
from statistics import median
from time import perf_counter
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from meshwright.hardware._cluster import STAGED, CollectiveName, CollectiveRate
from meshwright.hardware.probe_collectives import fitted_rate
from meshwright.hardware.probe_transports import usable_transports
from meshwright.hardware.probe_workers import Member
from meshwright.units import KIB, MIB, Bytes, Seconds

COLLECTIVES: tuple[CollectiveName, ...] = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
SMALL: Bytes = 64 * KIB
LARGE: Bytes = 4 * MIB
BLOCK: Bytes = 32 * MIB
CALLS = 24
FLOAT: Bytes = 4
EXAMPLES = 8
# A product of so many rows by a square: about a millisecond.
ROWS, WIDTH = 1024, 256


@runtime_checkable
class StagedTransport(Protocol):
    """A transport that carries tensors from anywhere; all of these are done when they return."""

    def all_reduce(self, tensor: Tensor) -> Any:
        """Starts a sum in place; what it gives has `wait()`."""
        ...

    def all_gather(self, whole: Tensor, part: Tensor) -> None:
        """Puts everybody's part into the whole."""
        ...

    def reduce_scatter(self, part: Tensor, whole: Tensor) -> None:
        """Sums everybody's whole, and gives this worker its part."""
        ...

    def all_to_all(self, received: Tensor, sent: Tensor, *, counts: list[list[int]]) -> None:
        """Hands every worker its range."""
        ...

    def close(self) -> None:
        """Gives back what it holds."""
        ...


def staged_rates(member: Member) -> list[CollectiveRate]:
    """Rates of every transport that carries tensors from anywhere; called by all processes at the same time."""
    return [
        _rate(transport, name, transport_name + STAGED, member)
        for transport_name, transport in usable_transports()
        if isinstance(transport, StagedTransport)
        for name in COLLECTIVES
    ]


def _rate(transport: StagedTransport, name: CollectiveName, label: str, member: Member) -> CollectiveRate:
    small, large = (_duration(_exchange(transport, name, size, member.group)) for size in (SMALL, LARGE))
    latency, bandwidth = fitted_rate(small, large, sizes=(SMALL, LARGE))
    return CollectiveRate(collective=name, transport=label, group=member.group, latency=latency, bandwidth=bandwidth)


def _duration(exchange: Callable[[], object]) -> Seconds:
    """Median time that an exchange adds to a stretch of computing, waiting for the others' computing included."""
    left, right = torch.ones(ROWS, WIDTH), torch.ones(WIDTH, WIDTH)
    parts = cycle(torch.zeros(BLOCK // FLOAT // left.numel(), ROWS, WIDTH).unbind())
    alone, together = [], []
    exchange()
    for _ in range(CALLS):
        start = perf_counter()
        torch.mm(left, right).add_(next(parts))
        computed = perf_counter()
        exchange()
        alone.append(computed - start)
        together.append(perf_counter() - start)
    return median(together) - median(alone)


def _exchange(transport: StagedTransport, name: CollectiveName, size: Bytes, group: int) -> Callable[[], object]:
    """A collective on a whole tensor of about `size` bytes, another one every time.

    What is gathered or scattered along the sequence lies example by example: a copy brings it into the order of the
    workers, or back.
    """
    share = size // (FLOAT * group * EXAMPLES) * EXAMPLES
    numel = share * group
    wholes = cycle(torch.zeros(BLOCK // FLOAT // numel, numel).unbind())
    counts = [[share] * group] * group

    def all_gather() -> None:
        whole = next(wholes)
        transport.all_gather(whole, next(wholes)[:share])
        whole.view(group, EXAMPLES, -1).transpose(0, 1).contiguous()

    def reduce_scatter() -> None:
        ordered = next(wholes).view(EXAMPLES, group, -1).transpose(0, 1).contiguous()
        transport.reduce_scatter(next(wholes)[:share], ordered.view(-1))

    return {
        "all_reduce": lambda: transport.all_reduce(next(wholes)).wait(),
        "all_gather": all_gather,
        "reduce_scatter": reduce_scatter,
        "all_to_all": lambda: transport.all_to_all(next(wholes), next(wholes), counts=counts),
    }[name]
