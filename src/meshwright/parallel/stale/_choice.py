"""The kind of updates that a strategy names."""

import torch.distributed as dist

from meshwright.cost import Strategy
from meshwright.errors import PlanError
from meshwright.parallel._parallelized import Parallelized, SplitModel
from meshwright.parallel.stale._asynchronous import AsynchronousUpdates
from meshwright.parallel.stale._islands import Island
from meshwright.parallel.stale._local_updates import LocalUpdates
from meshwright.parallel.stale._shared_parameters import SharedParameters
from meshwright.parallel.stale._split_islands import SplitIslands


def set_apart(
    inner: Parallelized, island: Island, strategy: Strategy, *, group: dist.ProcessGroup | None
) -> Parallelized:
    """Puts the way in which islands meet around what the workers of one do; all workers call it at the same time.

    Args:
        inner: what this island's workers do.
        island: they.
        strategy: of all workers.
        group: all workers; None: all there are.

    Raises:
        PlanError: the kind of updates does not suit the islands.
    """
    updates, compression = strategy.exchange.updates, strategy.exchange.compression
    assert updates is not None
    if updates.kind == "local":
        if isinstance(inner, SplitModel):
            return SplitIslands(inner, island, updates, compression=compression, group=group)
        return LocalUpdates(inner, island, updates, compression=compression, group=group)
    if compression is not None:
        raise PlanError(
            f"{updates.kind} updates with {compression.summary}",
            cause="what a message leaves out is made up for in the next one of all islands, and here they come singly",
            alternatives=["--set compression=none", "--set updates=local"],
            command="meshwright run SCRIPT",
        )
    if updates.kind == "shared":
        return SharedParameters(inner, island, group=group)
    total = sum(strategy.batch.shares)
    weights = tuple(share / total for share in strategy.batch.shares)
    return AsynchronousUpdates(inner, island, updates, weights=weights, group=group)
