"""Is another plan better than the one that runs, now that its steps have been seen?

The model's prices are corrected with what the steps took. Computing and exchanging err apart from each other: where
measured computing took c times what was predicted, and exchanging (with the waiting it causes) e times, a rival's step
is c · computing + e · exchanging; a factor for both would leave the order of plans as it was. Where the plan exchanges
nothing, or its exchanges cannot be told from its computing, both are scaled by measured over predicted step.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from meshwright.cost import Pricer, Strategy, TimeBreakdown
from meshwright.graph import Graph
from meshwright.hardware import Cluster
from meshwright.plan._goal import Goal, Pins
from meshwright.plan._outright import with_splits
from meshwright.plan._plan import Plan
from meshwright.plan._priced import Priced, choice
from meshwright.plan._shortlist import shortlist
from meshwright.units import Seconds

# What a change must gain to be worth stopping a run for.
_WORTH_IT = 0.9
# Below this share of a step an item's error says more about the clock than about the machine.
_LEAST_SHARE = 0.02
_EXCHANGING = ("communication", "waiting")
# What tells one layout from another; the rest is left to the planner.
_LAYOUT = (
    "workers", "threads", "data", "shard", "sharding", "tensor", "sequence", "context", "expert", "pipeline",
    "schedule", "accumulation",
)  # fmt: skip
_ABSENT = (1, "none", "whole")


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """A plan that is expected to be faster than the one that runs.

    Args:
        summary: its choices in a line.
        step: expected, after the correction (s).
        pins: what asks for it, as `--set` takes it.
        unpinned: choices that the user pinned and that it departs from.
    """

    summary: str
    step: Seconds
    pins: tuple[str, ...]
    unpinned: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Factors:
    """Measured over predicted time.

    Args:
        computing: of forward, backward, update and what is between them.
        exchanging: of collectives and of waiting.
    """

    computing: float
    exchanging: float

    def step(self, time: TimeBreakdown) -> Seconds:
        """A predicted step after the correction (s)."""
        exchanged = _exchanging(time)
        return self.computing * (time.step - exchanged) + self.exchanging * exchanged


def factors_of(predicted: TimeBreakdown, measured: TimeBreakdown) -> Factors:
    """How far the two parts of a step are off.

    Args:
        predicted: by the model.
        measured: medians of the run's steps.
    """
    apart, spent = _exchanging(predicted), _exchanging(measured)
    if min(apart / predicted.step, spent / measured.step) < _LEAST_SHARE:
        both = measured.step / predicted.step
        return Factors(computing=both, exchanging=both)
    return Factors(computing=(measured.step - spent) / (predicted.step - apart), exchanging=spent / apart)


def better_plan(plan: Plan, graph: Graph, cluster: Cluster, goal: Goal, measured: TimeBreakdown) -> Offer | None:
    """The best plan by the corrected prices, where it would gain a tenth or more of what the steps take now.

    Everything is priced again, without a trial; what lost a trial before the run is left out. The choices of a layout
    that the user pinned are left open, for it is they that may turn out to cost too much; the others stay, as do
    permissions and the limit on memory.

    Args:
        plan: that runs.
        graph: that it was made of.
        cluster: that it was made for.
        goal: that it was made for.
        measured: medians of the items of its steps (s).

    Returns:
        None where nothing is so much better.

    Raises:
        PlanError, DoesNotFitError: nothing else can be done.
    """
    own = Pricer(with_splits(graph), cluster).predict(plan.strategy).time
    factors = factors_of(own, measured)
    lost = {candidate.summary for candidate in plan.candidates if candidate.trial}
    open_goal = replace(goal, pins=replace(goal.pins, **dict.fromkeys(_LAYOUT)))
    rivals = [
        item
        for item in _rivals(graph, cluster, open_goal)
        if not _is_same(item.strategy, plan.strategy) and item.strategy.summary not in lost
    ]
    best = min(rivals, key=lambda item: factors.step(item.prediction.time), default=None)
    if best is None or factors.step(best.prediction.time) > _WORTH_IT * measured.step:
        return None
    return Offer(
        summary=best.strategy.summary,
        step=factors.step(best.prediction.time),
        pins=tuple(layout_pins(best.strategy)),
        unpinned=tuple(_departures(goal.pins, best.strategy)),
    )


def layout_pins(strategy: Strategy) -> Iterator[str]:
    """What asks for a layout, as `--set` takes it; axes of one are left out."""
    for name in _LAYOUT:
        value = choice(strategy, name)
        split = strategy.mesh.splits_the_model and name == "threads"
        if name == "workers" or (value not in _ABSENT and not split):
            yield f"{name}={value}"


def _rivals(graph: Graph, cluster: Cluster, goal: Goal) -> tuple[Priced, ...]:
    listed = shortlist(graph, cluster, goal)
    return (*listed.candidates, *(item for item in listed.others if item.fits))


def _is_same(one: Strategy, other: Strategy) -> bool:
    return all(choice(one, name) == choice(other, name) for name in _LAYOUT)


def _departures(pins: Pins, strategy: Strategy) -> Iterator[str]:
    for item in fields(Pins):
        pinned = getattr(pins, item.name)
        if item.name in _LAYOUT and pinned is not None and pinned != choice(strategy, item.name):
            yield f"{item.name}={pinned}"


def _exchanging(time: TimeBreakdown) -> Seconds:
    return sum(getattr(time, name) for name in _EXCHANGING)
