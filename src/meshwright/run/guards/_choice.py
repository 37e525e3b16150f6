"""Which guard a strategy has: what its steps leave out, or leave for later, is compared with exact steps."""

from meshwright.cost import Strategy, Updates, delay
from meshwright.run._job import Job
from meshwright.run._placement import Carrying, Drifting, Placed, Unwaiting
from meshwright.run.guards._compression_guard import CompressionGuard
from meshwright.run.guards._guard import Guard
from meshwright.run.guards._replay_guard import ReplayGuard
from meshwright.run.guards._staleness_guard import StalenessGuard

# Steps of a span for each step that a pipeline's gradients come late.
_STEPS_PER_DELAY = 4
# With gradients in shards no worker has the exact gradient, so there is nothing to compare with.
_COMPARED = ("none", "optimizer")


def guard_of(job: Job, placed: Placed, strategy: Strategy | None, *, rank: int) -> Guard | None:
    """The guard of compressed gradients, of updates apart, or of a pipeline that is not emptied.

    Args:
        job: whose model and optimizer are stepped.
        placed: the job under the strategy.
        strategy: of all workers.
        rank: of this worker.

    Returns:
        None where steps are exact, or checks are off.
    """
    if strategy is None:
        return None
    if isinstance(placed, Carrying):
        return _of_compression(job, placed, strategy)
    if not isinstance(placed, Drifting):
        return None
    updates = strategy.exchange.updates
    return _of_pipeline(job, placed, strategy) if updates is None else _of_updates(job, placed, updates, rank)


def _of_compression(job: Job, placed: Placed, strategy: Strategy) -> Guard | None:
    choice = strategy.exchange.compression
    if choice is None or not choice.check_every or strategy.sharding not in _COMPARED:
        return None
    return CompressionGuard(job, placed, every=choice.check_every, tolerance=choice.tolerance)


def _of_pipeline(job: Job, placed: Placed, strategy: Strategy) -> Guard | None:
    pipeline = strategy.pipeline
    if pipeline is None or pipeline.schedule != "asynchronous" or not pipeline.check_every:
        return None
    late = delay(0, num_stages=strategy.mesh.pp, num_micro_batches=strategy.batch.accumulation)
    span = _STEPS_PER_DELAY * (late + 1)
    return StalenessGuard(job, placed, every=pipeline.check_every, span=span, tolerance=pipeline.tolerance)


def _of_updates(job: Job, placed: Placed, updates: Updates, rank: int) -> Guard | None:
    if not updates.check_every:
        return None
    every = updates.check_every * updates.interval
    if isinstance(placed, Unwaiting):
        return ReplayGuard(
            job, placed, every=every, span=updates.interval, tolerance=updates.tolerance, calls=rank == 0
        )
    return StalenessGuard(job, placed, every=every, span=updates.interval, tolerance=updates.tolerance)
