"""Which guard a strategy has: what its steps leave out, or leave for later, is compared with exact steps."""

from meshwright.cost import Strategy, Updates, delay
from meshwright.run._job import Job
from meshwright.run._placement import Drifting, Placed, Unwaiting
from meshwright.run._replay_guard import ReplayGuard
from meshwright.run._staleness_guard import StalenessGuard

# Steps of a span for each step that a pipeline's gradients come late.
_STEPS_PER_DELAY = 4

SpanGuard = StalenessGuard | ReplayGuard


def staleness_guard_of(job: Job, placed: Placed, strategy: Strategy | None, *, rank: int) -> SpanGuard | None:
    """The guard of updates apart, or of a pipeline that is not emptied; None where steps are exact, or checks are off.

    Args:
        job: whose model and optimizer are stepped.
        placed: the job under the strategy.
        strategy: of all workers.
        rank: of this worker.
    """
    if strategy is None or not isinstance(placed, Drifting):
        return None
    updates, pipeline = strategy.exchange.updates, strategy.pipeline
    if updates is not None and updates.check_every:
        return _of_updates(job, placed, updates, rank)
    if pipeline is not None and pipeline.schedule == "asynchronous" and pipeline.check_every:
        late = delay(0, num_stages=strategy.mesh.pp, num_micro_batches=strategy.batch.accumulation)
        span = _STEPS_PER_DELAY * (late + 1)
        return StalenessGuard(job, placed, every=pipeline.check_every, span=span, tolerance=pipeline.tolerance)
    return None


def _of_updates(job: Job, placed: Placed, updates: Updates, rank: int) -> SpanGuard:
    every = updates.check_every * updates.interval
    if isinstance(placed, Unwaiting):
        return ReplayGuard(
            job, placed, every=every, span=updates.interval, tolerance=updates.tolerance, calls=rank == 0
        )
    return StalenessGuard(job, placed, every=every, span=updates.interval, tolerance=updates.tolerance)
