"""How a layout's gradients go: as they are; rounded, compressed, seldom or late, where that is allowed."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil

from meshwright.cost import TransportName, Updates, measured_transports
from meshwright.cost.hybrid import Layout, standing
from meshwright.hardware import Cluster, Host
from meshwright.plan._goal import Goal
from meshwright.plan._space import compressions, reductions
from meshwright.plan._updates import ways_to_update

# Workers up to which stale steps are looked at unasked: what they do to convergence was seen with few.
MOST_APART = 64


def carrier(cluster: Cluster, hosts: Sequence[Host], goal: Goal) -> TransportName:
    """What carries a layout's tensors, where nothing is pinned.

    Memory that all workers see, where they are processes of one host between which it was measured: it carries
    activations as well as gradients. What is pinned to be sent in fewer bits, or seldom, has connections of its own.

    Args:
        cluster: with the rates between processes.
        hosts: on which a layout's workers are.
        goal: pins.
    """
    pins = goal.pins
    if pins.transport is not None or hosts[0].device.kind != "cpu":
        return pins.transport or "nccl"
    as_it_is = (
        pins.compression in (None, "none") and pins.reduction in (None, "as_written")
        and pins.updates in (None, "every_step")
    )  # fmt: skip
    together = len(hosts) == 1 and hosts[0].count == 1
    return "shared_memory" if together and as_it_is and "shared_memory" in measured_transports(cluster) else "gloo"


def sent(layout: Layout, goal: Goal, hosts: Sequence[Host]) -> Iterator[Layout]:
    """A layout with every way to exchange gradients that its axes go with.

    Args:
        goal: pins and allowances.
        hosts: those that train.
    """
    for updates in _updates(layout, goal, hosts):
        if updates is None:
            yield from _every_step(layout, goal)
        else:
            yield from _apart(layout, goal, updates)


def _every_step(layout: Layout, goal: Goal) -> Iterator[Layout]:
    """In every step: as they are, rounded to 16 bits, or compressed.

    Parameters in shards are scattered by torch, which rounds nothing; of a split model nothing may be left out, for
    checkpoints would not have it; memory that workers share is faster than any encoding; and where no two workers
    have the same parameters there is nothing to send.
    """
    pins = goal.pins
    if layout.mesh.num_shares * layout.mesh.cp == 1:
        pinned = pins.compression not in (None, "none") or pins.reduction not in (None, "as_written")
        if layout.mesh.num_workers == 1 or not pinned:
            yield layout
        return
    if layout.exchange.transport == "shared_memory":
        goal = replace(goal, allow=())
    for reduction in reductions(goal):
        if reduction == "as_written":
            yield from _compressed(layout, goal)
        elif layout.sharding != "parameters" and pins.compression in (None, "none"):
            yield _rounded(layout, reduction)


def _compressed(layout: Layout, goal: Goal) -> Iterator[Layout]:
    if layout.mesh.splits_the_model:
        if goal.pins.compression in (None, "none"):
            yield layout
        return
    for compression in compressions(layout.sharding, layout.mesh, goal):
        exchange = layout.exchange if compression is None else replace(layout.exchange, compression=compression)
        yield replace(layout, exchange=exchange)


def _updates(layout: Layout, goal: Goal, hosts: Sequence[Host]) -> tuple[Updates | None, ...]:
    """Every step together, and islands that the model's axes and the hosts go with.

    Experts stay inside an island, and an island on as few hosts as its workers need.
    """
    mesh, pinned = layout.mesh, goal.pins.updates
    late = goal.pins.schedule == "asynchronous"  # gradients would come late twice
    if late or "staleness" not in goal.allow or (pinned is None and mesh.num_workers > MOST_APART):
        return (None,) if pinned in (None, "every_step") else ()
    on_processors = hosts[0].device.kind == "cpu"
    places = min(host.device.cores // layout.threads if on_processors else host.devices for host in hosts)
    num_hosts = ceil(mesh.num_workers / places)
    found = ways_to_update(mesh, layout.sharding, goal, num_hosts=num_hosts, on_processors=on_processors)
    return tuple(one for one in found if one is None or _can_part(layout, one, places=places))


def may_flow(layout: Layout, goal: Goal) -> bool:
    """Whether a pipeline may go on between steps, where that is allowed: its backwards then meet newer parameters.

    Parameters in shards are gathered from their newest shards and activations computed again with newer parameters;
    experts, keys and values of other steps would be those of others.
    """
    mesh, pins = layout.mesh, goal.pins
    if "staleness" not in goal.allow or pins.schedule not in (None, "asynchronous"):
        return False
    if layout.exchange.updates is not None or layout.sharding == "parameters" or pins.recompute == "all":
        return False
    return mesh.ep == mesh.cp == 1 and (pins.schedule is not None or mesh.num_workers <= MOST_APART)


def _can_part(layout: Layout, updates: Updates, *, places: int) -> bool:
    mesh = layout.mesh
    if updates.kind != "local" and mesh.splits_the_model:
        return False  # they take every step together
    if (mesh.num_shares * mesh.cp // updates.islands) % mesh.ep:
        return False
    apart = replace(layout, exchange=replace(layout.exchange, updates=updates))
    return standing(apart, places=places).is_tight


def _apart(layout: Layout, goal: Goal, updates: Updates) -> Iterator[Layout]:
    """Inside an island as they are or rounded; its messages to the others whole or compressed.

    What comes to a server singly is not compressed: what one message leaves out, the next of all makes up for.
    """
    mesh = layout.mesh
    alone = mesh.num_shares * mesh.cp == updates.islands
    for reduction in ("as_written",) if alone or layout.sharding == "parameters" else reductions(goal):
        inside = layout if reduction == "as_written" else _rounded(layout, reduction)
        for compression in compressions("none", mesh, goal):
            if compression is None or updates.kind == "local":
                yield replace(inside, exchange=replace(layout.exchange, updates=updates, compression=compression))


def _rounded(layout: Layout, reduction: str) -> Layout:
    return replace(layout, precision=replace(layout.precision, reduction=reduction))
