"""Plans that the model decides alone: splits over tensor, pipeline, context, expert, and what weighs more than time."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from meshwright.cost import Strategy
from meshwright.errors import PlanError, ProgramError
from meshwright.graph import Graph
from meshwright.graph.capture_batch import batch_size
from meshwright.hardware import Cluster, Correction
from meshwright.plan import SPLITS, Goal, Pins, Plan, Priced, Shortlist
from meshwright.run._batch import bounds, examples_of
from meshwright.run._job import Job

if TYPE_CHECKING:
    from meshwright.parallel.hybrid import Completed


def asks_for_a_split(pins: Pins) -> bool:
    """Whether a pin splits the model itself."""
    return any((getattr(pins, name) or 1) > 1 for name in SPLITS)


def is_priced_only(goal: Goal) -> bool:
    """Whether the model alone decides: a pin splits the model, or more than time is weighed, which no trial shows."""
    return asks_for_a_split(goal.pins) or goal.weighs_more_than_time


def plan_by_model(
    job: Job, batch: Any, graph: Graph, cluster: Cluster, goal: Goal, *, correction: Correction | None = None
) -> Plan:
    """The best plan by prices alone; what it leaves open of a split, the program decides.

    Where no pin asks for a split, and the program has not the one that would be best, the model stays whole.

    Args:
        job: as the user handed it over.
        batch: a global batch.
        graph: of its step.
        cluster: to run on.
        goal: for which `is_priced_only` holds.
        correction: how far earlier runs of its kind were off.

    Raises:
        PlanError: the pins allow nothing, the limits are not kept, or the program cannot be split as pinned.
        ProgramError: the step is not one fixed graph.
        DoesNotFitError: no layout fits the memory.
    """
    from meshwright.plan import plan_outright

    plan = plan_outright(graph, cluster, goal, correction=correction)
    if not plan.strategy.mesh.splits_the_model:
        return plan
    try:
        return settled(plan, completed_for(job, batch, plan.strategy))
    except (PlanError, ProgramError):
        if asks_for_a_split(goal.pins):
            raise
    whole: dict[str, Any] = dict.fromkeys(SPLITS, 1)
    return plan_outright(graph, cluster, replace(goal, pins=replace(goal.pins, **whole)), correction=correction)


def settled(plan: Plan, found: "Completed") -> Plan:
    """A plan with what its program settles about the split: placements, cuts, and what no rule divides."""
    return replace(plan, strategy=found.strategy, gathered=found.gathered)


def with_programs(job: Job, batch: Any, listed: Shortlist) -> tuple[Shortlist, dict[Strategy, "Completed"]]:
    """The shortlist without what the program cannot be split into.

    Returns:
        Also, by the shortlist's strategies that split the model, the same with the placements and cuts of the program.

    Raises:
        PlanError, ProgramError: no candidate is left.
    """
    completed: dict[Strategy, Completed] = {}
    declined: list[tuple[Priced, str]] = []
    refusal: PlanError | ProgramError | None = None
    for item in listed.candidates:
        if item.strategy.mesh.splits_the_model:
            try:
                completed[item.strategy] = completed_for(job, batch, item.strategy)
            except (PlanError, ProgramError) as error:
                declined.append((item, error.fact))
                refusal = error
    left = tuple(item for item in listed.candidates if item not in [other for other, _ in declined])
    if refusal is not None and not left:
        raise refusal
    return replace(listed, candidates=left, declined=tuple(declined)), completed


def completed_for(job: Job, batch: Any, strategy: Strategy) -> "Completed":
    """A strategy that splits the model, with placements and cuts that the program of its micro-batches has.

    Args:
        job: as the user handed it over.
        batch: a global batch.
        strategy: whose placements and cuts may be open, or found from operations alone.

    Raises:
        PlanError: the program cannot be split so.
        ProgramError: the step is not one fixed graph.
    """
    from meshwright.parallel.context import along_sequence
    from meshwright.parallel.expert import folded
    from meshwright.parallel.hybrid import check, completed
    from meshwright.parallel.program import capture_program

    check(strategy, job.optimizer)

    size = batch_size(batch)
    share = bounds(size, strategy.batch.shares)[1]
    examples = max(1, share // strategy.batch.accumulation)
    program = capture_program(job.model, job.loss, examples_of(batch, slice(0, examples), size))
    found = completed(strategy, program)
    if strategy.mesh.cp == 1:
        return found
    along = along_sequence(folded(program), degree=strategy.mesh.cp, attention=strategy.attention)
    return replace(found, gathered=(*found.gathered, *along.gathered))
