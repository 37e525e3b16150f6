"""How fast Meshwright's own transports are: the same collectives, through whatever carries them.

Transports live in rooms above this one. They are found by the package's entry points of the group
`meshwright.transports`, so that this room needs to know none of them, and one that somebody adds is measured too.
"""

from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any, Protocol

import torch
from torch import Tensor

from meshwright.errors import MeshwrightError
from meshwright.hardware._cluster import CollectiveName, CollectiveRate
from meshwright.hardware.probe_collectives import (
    FLOAT,
    LARGE,
    LARGE_CALLS,
    SMALL,
    SMALL_CALLS,
    fitted_rate,
    median_duration,
)
from meshwright.hardware.probe_workers import Member
from meshwright.units import Bytes

GROUP = "meshwright.transports"
COLLECTIVES: tuple[CollectiveName, ...] = ("all_reduce", "broadcast")


class Transport(Protocol):
    """What is used of a transport here; made inside an initialised process group, without arguments."""

    def allocate(self, numel: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory that it carries best."""
        ...

    def all_reduce(self, tensor: Tensor) -> Any:
        """Starts a sum; what it gives has `wait()`."""
        ...

    def broadcast(self, tensor: Tensor, *, root: int) -> Any:
        """Starts a copy of the root's; what it gives has `wait()`."""
        ...

    def close(self) -> None:
        """Gives back what it holds."""
        ...


def transport_rates(member: Member) -> list[CollectiveRate]:
    """Rates of every transport of the package that works between these processes; called by all at the same time."""
    return [
        _rate(transport, name, transport_name, member)
        for transport_name, transport in usable_transports()
        for name in COLLECTIVES
    ]


def usable_transports() -> Iterator[tuple[str, Any]]:
    """Names and transports that work between these processes, each closed when the next one is asked for."""
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            transport: Transport = entry.load()()
        except MeshwrightError:
            continue  # it cannot be used between these processes, so there is nothing to choose
        yield entry.name, transport
        transport.close()


def _rate(transport: Transport, name: CollectiveName, transport_name: str, member: Member) -> CollectiveRate:
    small = median_duration(carried(transport, name, SMALL), SMALL_CALLS)
    large = median_duration(carried(transport, name, LARGE), LARGE_CALLS)
    latency, bandwidth = fitted_rate(small, large)
    return CollectiveRate(
        collective=name, transport=transport_name, group=member.group, latency=latency, bandwidth=bandwidth
    )


def carried(transport: Transport, name: CollectiveName, size: Bytes) -> Callable[[], object]:
    """A transport's collective of about a size, waited for."""
    tensor = transport.allocate(size // FLOAT, torch.float32, torch.device("cpu"))
    if name == "all_reduce":
        return lambda: transport.all_reduce(tensor).wait()
    return lambda: transport.broadcast(tensor, root=0).wait()
