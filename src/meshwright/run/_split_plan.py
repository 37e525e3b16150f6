"""Plans that split the model itself, over tensor, pipeline, context, expert: pinned, or found by the shortlist."""

from dataclasses import replace
from typing import Any

from meshwright.cost import Strategy
from meshwright.errors import PlanError, ProgramError
from meshwright.graph import Graph
from meshwright.graph.capture_batch import batch_size
from meshwright.hardware import Cluster, Correction
from meshwright.plan import Goal, Pins, Plan, Priced, Shortlist
from meshwright.run._batch import bounds, examples_of
from meshwright.run._experience import SPLITS
from meshwright.run._job import Job


def asks_for_a_split(pins: Pins) -> bool:
    """Whether a pin splits the model itself."""
    return any((getattr(pins, name) or 1) > 1 for name in SPLITS)


def split_plan(
    job: Job, batch: Any, graph: Graph, cluster: Cluster, goal: Goal, *, correction: Correction | None = None
) -> Plan:
    """The best plan by the model among those with the pinned split; what it leaves open, the program decides.

    Args:
        job: as the user handed it over.
        batch: a global batch.
        graph: of its step.
        cluster: to run on.
        goal: with the split among its pins.
        correction: how far earlier runs that were split so were off.

    Raises:
        PlanError: the pins allow nothing, or the program cannot be split so.
        ProgramError: the step is not one fixed graph.
        DoesNotFitError: no layout fits the memory.
    """
    from meshwright.plan import plan_outright

    plan = plan_outright(graph, cluster, goal, correction=correction)
    return replace(plan, strategy=completed_for(job, batch, plan.strategy))


def with_programs(job: Job, batch: Any, listed: Shortlist) -> tuple[Shortlist, dict[Strategy, Strategy]]:
    """The shortlist without what the program cannot be split into.

    Returns:
        Also, by the shortlist's strategies that split the model, the same with the placements and cuts of the program.

    Raises:
        PlanError, ProgramError: no candidate is left.
    """
    completed: dict[Strategy, Strategy] = {}
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


def completed_for(job: Job, batch: Any, strategy: Strategy) -> Strategy:
    """A strategy with placements and cuts that the program of its micro-batches has.

    Args:
        job: as the user handed it over.
        batch: a global batch.
        strategy: whose placements and cuts may be open, or found from operations alone.
    """
    if not strategy.mesh.splits_the_model:
        return strategy
    from meshwright.parallel.hybrid import check, completed
    from meshwright.parallel.program import capture_program

    check(strategy, job.optimizer)

    size = batch_size(batch)
    share = bounds(size, strategy.batch.shares)[1]
    examples = max(1, share // strategy.batch.accumulation)
    program = capture_program(job.model, job.loss, examples_of(batch, slice(0, examples), size))
    return completed(strategy, program)
