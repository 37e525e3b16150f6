"""What a change of some choices would cost: the best plan with them, against the plan there is."""

from dataclasses import dataclass, fields, replace
from typing import Any

from meshwright.cost import Pricer
from meshwright.cost.hybrid import layout_of
from meshwright.errors import PlanError
from meshwright.graph import Graph
from meshwright.hardware import Cluster
from meshwright.plan._fit import itemised
from meshwright.plan._goal import Goal, Pins
from meshwright.plan._known_figures import with_common_figures
from meshwright.plan._legality import check_pins, no_strategy
from meshwright.plan._outright import is_elsewhere, with_splits
from meshwright.plan._plan import Candidate, Plan
from meshwright.plan._priced import Priced, choice
from meshwright.plan._reasons import difference_in_items
from meshwright.plan._shortlist import shortlist
from meshwright.plan.explanation import neighbour, pins_of, relaxed, summary
from meshwright.plan.search import Aim
from meshwright.units import format_bytes, format_seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A plan beside what a change would make of it.

    Args:
        before: the plan's own candidate.
        after: the best with the change; its reason says what differs, in numbers.
    """

    before: Candidate
    after: Candidate


def price_change(plan: Plan, graph: Graph, cluster: Cluster, pins: Pins) -> Change:
    """Prices a change of some choices, everything that has to follow them left to the solver.

    Args:
        graph: that the plan was made of.
        cluster: that it was made for.
        pins: the choices to change.

    Raises:
        PlanError: they are not legal, or the graph or cluster is not the plan's.
    """
    _check_made_of(plan, graph, cluster)
    elsewhere = is_elsewhere(cluster)
    graph = with_splits(graph) if elsewhere or plan.strategy.mesh.splits_the_model else graph
    goal = Goal(allow=plan.allow, memory_limit=plan.memory_limit if elsewhere else 0, pins=pins)
    check_pins(graph, cluster, goal)
    before = Candidate(
        summary=plan.strategy.summary, step=plan.prediction.time.step, memory=plan.prediction.memory.peak
    )
    by_search = elsewhere or plan.minimize != "time"
    after = _outright(plan, graph, cluster, goal) if by_search else _here(plan, graph, cluster, goal)
    return Change(before=before, after=after)


def _check_made_of(plan: Plan, graph: Graph, cluster: Cluster) -> None:
    """Refuses a graph or a cluster that the plan was not made of.

    Raises:
        PlanError: names both.
    """
    own = f"{cluster.name} {cluster.identity}".strip()
    if (plan.model, plan.cluster or own) != (graph.model, own):
        raise PlanError(
            f"the plan is of {plan.model} on {plan.cluster}, and beside it lie {graph.model} and {own}",
            cause="a change is priced with the model and the hardware that the plan was made for",
            alternatives=["the files that `meshwright plan` wrote beside the plan", "plan again, with the change"],
            command="meshwright plan --cluster CLUSTER --set KEY=VALUE SCRIPT",
        )
    if plan.strategy.batch.size != graph.batch_size:
        raise PlanError(
            f"the plan is for batches of {plan.strategy.batch.size}, and {graph.model} beside it was captured with "
            f"{graph.batch_size}",
            cause="the files beside the plan were written for another one",
            alternatives=["plan again, with the change"],
            command="meshwright plan --cluster CLUSTER --set KEY=VALUE SCRIPT",
        )


def _outright(plan: Plan, graph: Graph, cluster: Cluster, goal: Goal) -> Candidate:
    pricer = Pricer(graph, with_common_figures(cluster)).hybrid
    chosen = layout_of(plan.strategy, pricer.units, pricer.hosts)
    best = pricer.price(chosen)
    fixed, named = pins_of(chosen), [item.name for item in fields(Pins) if getattr(goal.pins, item.name) is not None]
    pins = fixed
    for name in named:
        pins = relaxed(pins, goal.pins, name, getattr(goal.pins, name))
    pins = replace(pins, **{name: getattr(goal.pins, name) for name in named})
    text = ", ".join(f"{name} {getattr(goal.pins, name)}" for name in named)
    # Where the plan's other choices leave no room for the change, they follow it too: first all but the workers.
    for kept in (pins, replace(goal.pins, workers=goal.pins.workers or fixed.workers), goal.pins):
        found = neighbour(pricer, replace(goal, pins=kept), Aim(minimize=plan.minimize), chosen, best, change=text)
        if found is not None:
            break
    if found is None or found.layout is None or found.price is None:
        raise no_strategy(graph, cluster, goal)
    return Candidate(
        summary=summary(found.layout),
        step=found.price.step,
        memory=found.price.peak,
        reason=found.reason,
        fits=found.fits,
    )


def _here(plan: Plan, graph: Graph, cluster: Cluster, goal: Goal) -> Candidate:
    """The best by prediction with the changed choices and the plan's other ones where they can stay."""
    kept: dict[str, Any] = {
        item.name: choice(plan.strategy, item.name)
        for item in fields(Pins)
        if item.name in ("matrix_library", "optimizer", "allocator", "memory_format", "random", "compiled")
    }
    typed: dict[str, Any] = {
        item.name: value for item in fields(Pins) if (value := getattr(goal.pins, item.name)) is not None
    }
    best = shortlist(graph, cluster, replace(goal, pins=Pins(**(kept | typed)))).candidates[0]
    pricer = Pricer(graph, cluster)
    own = Priced(strategy=plan.strategy, prediction=pricer.predict(plan.strategy), memory_limit=plan.memory_limit)
    more = best.prediction.time.step - own.prediction.time.step
    word = f"{format_seconds(abs(more))} {'slower' if more > 0 else 'faster'} by prediction"
    items = difference_in_items(best, own)
    memory = f"{format_bytes(best.prediction.memory.peak)} per worker: {itemised(best.prediction.memory)}"
    return Candidate(
        summary=best.strategy.summary, step=best.prediction.time.step, memory=best.prediction.memory.peak,
        reason="; ".join(part for part in (f"{word}: {items}" if items else word, memory) if part),
    )  # fmt: skip
