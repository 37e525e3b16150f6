"""The legal values of the pins that split the model itself, and what they do not go with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from meshwright.cost import Schedule
from meshwright.errors import PlanError
from meshwright.graph import Graph, Splits
from meshwright.plan._goal import Pins


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """The legal values of one pin.

    Args:
        name: as in `Pins`.
        legal: what it may be.
        cause: what limits it.
    """

    name: str
    legal: Sequence
    cause: str


def split_rules(graph: Graph, *, places: int) -> Iterator[Rule]:
    """Rules for tensor, sequence, context, expert, pipeline, schedule and stages.

    Args:
        places: workers that the cluster has room for.
    """
    splits = graph.splits or Splits()
    tensor, context, expert = splits.tensor, splits.context, splits.expert
    yield _degrees("tensor", tensor.degrees if tensor else (), places, "heads, widths and vocabulary are divided by it")
    yield _degrees("context", context.degrees if context else (), places, "the sequence of an example is divided by it")
    yield _degrees("expert", expert.degrees if expert else (), places, "the experts of a layer are divided by it")
    yield Rule(
        name="sequence",
        legal=("whole", "split") if tensor is not None and tensor.split else ("whole",),
        cause="no operation between tensor-parallel regions was found that the sequence can be split over",
    )
    most = min(len(splits.cuts) + 1, places)
    yield Rule(
        name="pipeline",
        legal=range(1, most + 1),
        cause=f"{graph.model} can be cut at {len(splits.cuts)} points and there is room for {places} workers",
    )
    yield Rule(
        name="stages",
        legal=range(1, len(splits.cuts) + 2),
        cause=f"{graph.model} can be cut at {len(splits.cuts)} points",
    )
    yield Rule(
        name="schedule",
        legal=get_args(Schedule) if most > 1 else (),  # `asynchronous` has to be allowed besides (`_legality`)
        cause=f"{graph.model} cannot be cut into stages here",
    )


def _degrees(name: str, degrees: Sequence[int], places: int, reason: str) -> Rule:
    legal = (1, *(degree for degree in degrees if degree <= places))
    return Rule(
        name=name,
        legal=legal,
        cause=f"{reason}; there is room for {places} workers" if degrees else "the model was not found to allow it",
    )


def check_split_exchange(pins: Pins) -> None:
    """Refuses exchange that only whole models have, where a pin splits the model.

    Raises:
        PlanError: names both pins, and what would do.
    """
    degrees = {name: getattr(pins, name) or 1 for name in ("tensor", "context", "expert", "pipeline")}
    split = ", ".join(f"{name} = {degree}" for name, degree in degrees.items() if degree > 1)
    if not split:
        return
    apart = pins.updates not in (None, "every_step")
    reasons = (
        (
            f"updates = {pins.updates}", apart and pins.updates != "local",
            "the workers of a split model take every step together, and there each updates by itself",
            ("--set updates=local", "--set updates=every_step"),
        ),
        (
            f"updates = {pins.updates} and schedule = asynchronous", apart and pins.schedule == "asynchronous",
            "a step's gradients would still be under way when islands meet, and be late twice",
            ("--set schedule=1f1b", "--set updates=every_step"),
        ),
        (
            f"updates = {pins.updates} and data = 1", apart and pins.data == 1,
            "every island holds a whole copy of the model, in parts",
            ("--set data=2", "--set updates=every_step"),
        ),
        (
            f"compression = {pins.compression} and exact steps",
            not apart and pins.compression not in (None, "none"),
            "what is left out of the gradients of a split model would not be in checkpoints; messages between islands "
            "are compressed",
            ("--set compression=none", "--set updates=local --allow staleness"),
        ),
    )  # fmt: skip
    for name, is_there, cause, alternatives in reasons:
        if is_there:
            raise PlanError(
                f"{split} with {name}", cause=cause, alternatives=alternatives, command="meshwright plan SCRIPT"
            )
