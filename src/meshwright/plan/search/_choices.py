"""What a search may combine, after the pins: devices, kernels, data types, what goes to the hosts' memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from meshwright.cost import Kernels, Offload, Precision
from meshwright.cost.hybrid import HybridPricer
from meshwright.graph import Splits
from meshwright.hardware import Host
from meshwright.plan._goal import Goal
from meshwright.plan._layouts import divisors, doublings
from meshwright.plan._space import kernel_choices, offloads, precisions


@dataclass(frozen=True, kw_only=True, slots=True)
class Devices:
    """Devices in use, in the order of ranks.

    Args:
        kinds: which of the cluster's training hosts.
        counts: how many of each.
    """

    kinds: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.counts)


def device_sets(hosts: Sequence[Host], goal: Goal) -> Iterator[Devices]:
    """Which devices to use, most first: all, or doublings; of mixed clusters every combination of kinds."""
    if len(hosts) == 1:
        for count in reversed(_counts(hosts[0], goal)):
            yield Devices(kinds=(0,), counts=(count,))
        return
    whole = [host.count * host.devices for host in hosts]
    numbers = range(len(hosts))
    for size in range(len(hosts), 0, -1):
        for kinds in combinations(numbers, size):
            counts = tuple(whole[kind] for kind in kinds)
            if goal.pins.workers in (None, sum(counts)):
                yield Devices(kinds=kinds, counts=counts)


def _counts(host: Host, goal: Goal) -> tuple[int, ...]:
    total = host.count * (host.device.cores if host.device.kind == "cpu" else host.devices)
    if goal.pins.workers is not None:
        return (goal.pins.workers,) if goal.pins.workers <= total else ()
    return divisors(total) if host.device.kind == "cpu" else doublings(total)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """What may be combined, after the pins.

    Args:
        splits: of the graph.
        goal: with the pins.
        kernels: implementations.
        precisions: data types.
        offloads: what may be kept in the hosts' memory.
        hosts: those that train.
    """

    splits: Splits
    goal: Goal
    hosts: tuple[Host, ...]
    kernels: tuple[Kernels, ...]
    precisions: tuple[Precision, ...]
    offloads: tuple[Offload, ...] = ("none",)

    @property
    def departs(self) -> bool:
        """Whether gradients may go otherwise than whole and in every step."""
        return bool(self.goal.allow) or self.goal.pins.updates is not None

    @property
    def shards_alike(self) -> bool:
        """Whether parameters in shards are always sent as they are, in every step."""
        return not {"compression", "staleness"} & set(self.goal.allow) and self.goal.pins.updates is None


def choices_of(pricer: HybridPricer, goal: Goal) -> Choices:
    """What may be combined for a graph on a cluster."""
    device = pricer.hosts[0].device
    found = precisions(device, goal, num_workers=1)  # how gradients are sent is asked once there are data ranks
    kernels = kernel_choices(pricer.graph, device, goal)
    fused = [one for one in kernels if one.optimizer == "fused"]
    return Choices(
        splits=pricer.graph.splits or Splits(),
        goal=goal,
        hosts=pricer.hosts,
        kernels=tuple(fused or kernels),  # the same update in the same order, with less memory
        precisions=found,
        offloads=tuple(pinned_among(goal.pins.offload, _offloads(pricer))) or ("none",),
    )


def _offloads(pricer: HybridPricer) -> tuple[Offload, ...]:
    """What may be kept in the hosts' memory, whichever of the kinds a worker stands on."""
    found = (offloads(pricer.graph, host.device) for host in pricer.hosts)
    return min(found, key=len)


def pinned_among(pinned: object, options: Sequence) -> Sequence:
    """The options that a pin leaves."""
    if pinned is None:
        return options
    return tuple(option for option in options if option == pinned)
