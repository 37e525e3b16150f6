"""Workers that agree in every step, among workers that do not."""

from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import torch.distributed as dist

from meshwright.cost import Mesh, Strategy, Updates
from meshwright.errors import PlanError
from meshwright.parallel._subgroup import subgroup


@dataclass(frozen=True, kw_only=True, slots=True)
class Island:
    """This worker's island.

    Args:
        strategy: of the island's workers among themselves.
        ranks: of its workers in the whole strategy.
        shares: of the global batch that it computes.
        weight: its part of the global batch (0 to 1).
        group: its workers; None for one.
        bridge: the workers that have this one's place on the other islands, itself included.
    """

    strategy: Strategy
    ranks: tuple[int, ...]
    shares: tuple[int, ...]
    weight: float
    group: dist.ProcessGroup | None
    bridge: dist.ProcessGroup


def island_ranks(mesh: Mesh, updates: Updates, rank: int) -> tuple[int, ...]:
    """The workers of a rank's island: neighbours along `dp_replicate`, with all their neighbours along other axes.

    Raises:
        PlanError: the islands do not come out even.
    """
    if updates.islands < 2 or mesh.dp_replicate % updates.islands:
        raise PlanError(
            f"{updates.islands} islands cannot be made of {mesh.dp_replicate} replicas",
            cause="each island holds the same number of whole copies of the model",
            alternatives=[
                f"islands={count}" for count in range(2, mesh.dp_replicate + 1) if not mesh.dp_replicate % count
            ],
        )
    width = mesh.dp_replicate // updates.islands
    own = mesh.coordinate(rank, "dp_replicate") // width
    return tuple(other for other in range(mesh.num_workers) if mesh.coordinate(other, "dp_replicate") // width == own)


def _divisors(number: int) -> list[int]:
    return [count for count in range(2, number + 1) if not number % count]


def strategy_within(strategy: Strategy, ranks: tuple[int, ...], updates: Updates) -> Strategy:
    """What the workers of one island do among themselves: the same, with exact steps."""
    mesh = replace(strategy.mesh, dp_replicate=strategy.mesh.dp_replicate // updates.islands)
    shares = sorted({strategy.mesh.share(rank) for rank in ranks})
    return replace(
        strategy,
        workers=tuple(replace(strategy.workers[rank], rank=place) for place, rank in enumerate(ranks)),
        mesh=mesh,
        batch=replace(strategy.batch, shares=tuple(strategy.batch.shares[share] for share in shares)),
        exchange=replace(strategy.exchange, updates=None, compression=None),
    )


def make_island(strategy: Strategy, updates: Updates, group: dist.ProcessGroup | None) -> Island:
    """Joins this worker to its island and its bridge; all workers of the strategy call it at the same time.

    Args:
        strategy: of all islands.
        updates: how they meet.
        group: the strategy's workers in the order of their ranks; None: all there are.
    """
    everyone: Any = dist.group.WORLD if group is None else group
    rank, members = dist.get_rank(everyone), dist.get_process_group_ranks(everyone)
    message = [uuid4().hex]
    dist.broadcast_object_list(message, src=members[0], group=everyone)
    ranks = island_ranks(strategy.mesh, updates, rank)
    place = ranks.index(rank)
    counterparts = sorted({island_ranks(strategy.mesh, updates, other)[place] for other in range(strategy.num_workers)})
    bridge = subgroup([members[other] for other in counterparts], f"meshwright/{message[0]}/bridge", everyone)
    assert bridge is not None, "there are two islands at least"
    shares = tuple(sorted({strategy.mesh.share(other) for other in ranks}))
    weights = strategy.batch.shares
    return Island(
        strategy=strategy_within(strategy, ranks, updates),
        ranks=ranks,
        shares=shares,
        weight=sum(weights[share] for share in shares) / sum(weights),
        group=subgroup([members[other] for other in ranks], f"meshwright/{message[0]}/island", everyone),
        bridge=bridge,
    )
