"""What a whole training run takes: steps, time, energy and money to a number of tokens."""

from dataclasses import dataclass
from math import ceil

from meshwright.cost import Prediction
from meshwright.errors import PlanError
from meshwright.graph import Graph, tokens_per_example
from meshwright.plan._goal import Goal
from meshwright.plan.search import Aim
from meshwright.units import Dollars, Joules, Seconds, format_days, format_seconds

_DAY: Seconds = 86400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A run to its end, as predicted.

    Args:
        tokens: that it trains on; examples where they are no sequences.
        steps: of the optimizer.
        time: of all steps (s).
        energy: of all devices (J); 0 where unknown.
        money: of all devices ($); 0 where unknown.
    """

    tokens: float
    steps: int
    time: Seconds
    energy: Joules
    money: Dollars


def tokens_of_step(graph: Graph) -> float:
    """Tokens that a step trains on; examples where they are no sequences."""
    return float(graph.batch_size * tokens_per_example(graph))


def steps_to(goal: Goal, graph: Graph) -> int:
    """Steps to the goal's tokens, or the goal's own number; 0 where neither is known."""
    if goal.tokens:
        return ceil(goal.tokens / tokens_of_step(graph))
    return goal.steps


def aim_of(goal: Goal, graph: Graph) -> Aim:
    """The objective and its limits by the step; limits on a whole run need its length."""
    steps = steps_to(goal, graph)
    return Aim(
        minimize=goal.minimize,
        longest=goal.deadline / steps if goal.deadline and steps else float("inf"),
        dearest=goal.budget / steps if goal.budget and steps else float("inf"),
    )


def target_of(goal: Goal, graph: Graph, prediction: Prediction) -> Target | None:
    """What a run of known length takes under a plan."""
    steps = steps_to(goal, graph)
    if not steps:
        return None
    return Target(
        tokens=steps * tokens_of_step(graph),
        steps=steps,
        time=steps * prediction.time.step,
        energy=steps * prediction.energy,
        money=steps * prediction.money,
    )


def enough(duration: Seconds) -> str:
    """A deadline as it is written, rounded up: `81.2d`, or `96.9min` below two days."""
    unit, name = (_DAY, "d") if duration >= 2 * _DAY else (60.0, "min")
    return f"{ceil(10 * duration / unit) / 10:g}{name}"


def check_deadline(target: Target | None, goal: Goal) -> None:
    """Refuses a run that takes longer than it may, where nothing faster was found.

    Raises:
        PlanError: says by how much, and what deadline would do.
    """
    if target is None or not goal.deadline or target.time <= goal.deadline:
        return
    raise PlanError(
        f"no plan keeps the deadline: the fastest takes {format_days(target.time)}, and {format_days(goal.deadline)} "
        "were given",
        cause=f"{target.steps:,} steps of {format_seconds(target.time / target.steps)}; one may take "
        f"{format_seconds(goal.deadline / target.steps)}",
        alternatives=[
            f"--deadline {enough(target.time)}",
            "fewer tokens or steps",
            "other hardware: --cluster h100:8, say",
        ],
        command="meshwright plan SCRIPT --cluster CLUSTER",
    )
