"""Layouts with their axes in other orders on the devices, as far as prices tell them apart."""

from collections.abc import Iterator
from dataclasses import replace

from meshwright.cost import Mesh
from meshwright.cost.hybrid import ANY_ORDER, USUAL_ORDER, HybridPricer, Layout, Order, live
from meshwright.plan.search._choices import Choices, Devices
from meshwright.plan.search._orders import REPLICAS_OUTSIDE, Reaches, orders, orders_of_shards


def first_orders(
    pricer: HybridPricer, choices: Choices, devices: Devices, mesh: Mesh, *, threads: int
) -> Iterator[Order]:  # fmt: skip
    """The order that is looked at first; where kinds differ, one with stages and one with replicas on one kind each."""
    mixed, several = len(devices.kinds) > 1, mesh.pp > 1 and mesh.num_shares > 1
    for order in (USUAL_ORDER, REPLICAS_OUTSIDE) if mixed and several else (USUAL_ORDER,):
        shape = Layout(mesh=mesh, replicas=(), threads=threads, order=order)
        yield from _orders(pricer, choices, shape, mixed=mixed)[:1] if choices.goal.pins.order else (order,)


def reordered(pricer: HybridPricer, shape: Layout, choices: Choices) -> Iterator[Layout]:
    """A shape with its axes in every other order that has prices of its own."""
    found = _orders(pricer, choices, shape, mixed=_is_mixed(shape))
    yield from (replace(shape, order=order) for order in found if order != shape.order)


def _orders(pricer: HybridPricer, choices: Choices, shape: Layout, *, mixed: bool) -> tuple[Order, ...]:
    """Orders of a shape's axes; with the same one outermost, whose neighbours are on several kinds of devices."""
    outermost = live(shape.mesh, shape.order)[:1] if mixed else ()
    return orders(
        shape.mesh, reaches_of(pricer, choices, shape), outermost=outermost[0] if outermost else None,
        pinned=choices.goal.pins.order,
    )  # fmt: skip


def reaches_of(pricer: HybridPricer, choices: Choices, layout: Layout) -> Reaches:
    """What prices tell places apart by; nothing where workers may meet seldom, whose islands count hosts."""
    apart = "staleness" in choices.goal.allow or choices.goal.pins.updates is not None
    return () if apart else pricer.exchanges.reaches(layout)


def turned(pricer: HybridPricer, layout: Layout, choices: Choices) -> Iterator[Layout]:
    """A layout with replicas outside of its shards, and the other way round where all are on one kind of devices."""
    mesh, pinned = layout.mesh, choices.goal.pins.order
    if layout.order == ANY_ORDER or mesh.dp_replicate == 1 or mesh.dp_shard == 1:
        yield layout
        return
    reaches, mixed = reaches_of(pricer, choices, layout), _is_mixed(layout)
    found = orders_of_shards(mesh, layout.order, reaches, mixed=mixed, pinned=pinned)
    yield from (layout if order == layout.order else replace(layout, order=order) for order in found)


def _is_mixed(layout: Layout) -> bool:
    return len({kind for replica in layout.replicas for kind in replica.kinds}) > 1
