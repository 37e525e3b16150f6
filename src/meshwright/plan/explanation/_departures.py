"""What departures from exact steps buy: the same layout with every gradient as it is, in every step."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from meshwright.cost import Allowance, Collective
from meshwright.cost.hybrid import HybridPricer, Layout, Price
from meshwright.plan._goal import Goal
from meshwright.plan.search import MOST_APART
from meshwright.units import format_bytes, format_seconds

# Axes that gradients, parameters in shards and messages between islands travel along.
_DATA_AXES = ("data", "cp", "dp_shard", "dp_replicate", "islands")


def exactly(pricer: HybridPricer, chosen: Layout, best: Price) -> Iterator[str]:
    """What the layout would take with exact steps, beside what it takes; nothing where its steps are exact."""
    exchange, precision = chosen.exchange, chosen.precision
    undone = {
        "updates=every_step": exchange.updates is not None,
        "compression=none": exchange.compression is not None,
        "reduction=as_written": precision.reduction != "as_written",
        "schedule=1f1b": chosen.schedule == "asynchronous",
    }
    if not any(undone.values()):
        return
    exact = pricer.price(
        replace(
            chosen,
            exchange=replace(exchange, updates=None, compression=None),
            precision=replace(precision, reduction="as_written"),
            schedule="1f1b" if chosen.schedule == "asynchronous" else chosen.schedule,
        )
    )
    names = ", ".join(name for name, is_there in undone.items() if is_there)
    sizes = [format_bytes(_exchanged(price.collectives)) for price in (exact, best)]
    more = f", and a loss in 1 / {best.steps:.2f} of the steps" if best.steps > 1 else ""
    yield (
        f"{names}: {format_seconds(exact.step)} a step instead of {format_seconds(best.step)}{more}; data ranks "
        f"exchange {sizes[0]} a step instead of {sizes[1]}"
    )


def meeting(chosen: Layout, best: Price) -> str:
    """How often islands meet and what that takes; nothing where all workers take every step together."""
    updates = chosen.exchange.updates
    if updates is None:
        return ""
    outer = [one for one in best.collectives if one.axis == "islands"]
    size, each = sum(one.size for one in outer), sum(one.duration for one in outer)
    workers = chosen.mesh.num_workers // updates.islands
    each_of = f"{workers} worker{'s' if workers > 1 else ''}"
    return (
        f"{updates.islands} islands of {each_of} take {format_seconds(best.step)} a step "
        f"with its part of a meeting; every {updates.interval} steps each worker meets those that hold the same parts: "
        f"{format_bytes(size * updates.interval)} in {format_seconds(each * updates.interval)}; "
    )


def other_departures(layout: Layout, allow: Sequence[Allowance]) -> Iterator[tuple[str, Any]]:
    """The other value of each choice that changes the mathematics, where it is allowed."""
    exchange = layout.exchange
    if "precision" in allow:
        yield "reduction", "bfloat16" if layout.precision.reduction == "as_written" else "as_written"
    if "compression" in allow:
        yield "compression", "int8" if exchange.compression is None else "none"
    if "staleness" in allow:
        yield "updates", "local" if exchange.updates is None else "every_step"
        if layout.mesh.pp > 1 and layout.schedule != "asynchronous":
            yield "schedule", "asynchronous"


def ruled_out(layout: Layout, goal: Goal) -> Iterator[str]:
    """What is allowed and does not go with the layout's other choices, with the reason."""
    mesh, apart = layout.mesh, layout.exchange.updates is not None
    if mesh.num_shares * mesh.cp == 1 or mesh.num_workers == 1:
        return
    sharded = layout.sharding == "parameters"
    reasons = (
        ("precision", "16-bit sums", "sharding = parameters", sharded,
         "torch's fully_shard scatters gradients itself and rounds nothing"),
        ("compression", "compression", "sharding = parameters in replicas", sharded and mesh.dp_replicate > 1,
         "sums of shards over the copies would be sent whole"),
        ("compression", "compression", f"{', '.join(mesh.split_axes)} in exact steps", mesh.splits_the_model,
         "what is left out of the gradients of a split model would not be in checkpoints"),
        ("staleness", "islands unasked", f"{mesh.num_workers} workers", mesh.num_workers > MOST_APART,
         f"what they do to convergence was seen with few: --set updates=local asks for them above {MOST_APART}"),
    )  # fmt: skip
    for allowance, what, choices, is_there, reason in reasons:
        if is_there and allowance in goal.allow and not apart:
            yield f"{what} does not go with {choices}: {reason}"


def _exchanged(collectives: Sequence[Collective]) -> int:
    return sum(one.size for one in collectives if one.axis in _DATA_AXES)
