"""Workers that agree in every step, among workers that do not."""

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import torch.distributed as dist

from meshwright.cost import Strategy, Updates, counterparts, island_ranks, strategy_within
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


def make_island(strategy: Strategy, updates: Updates, group: dist.ProcessGroup | None) -> Island:
    """Joins this worker to its island and its bridge; all workers of the strategy call it at the same time.

    Args:
        strategy: of all islands.
        updates: how they meet.
        group: the strategy's workers in the order of their ranks; None: all there are.

    Raises:
        PlanError: the islands do not come out even, or cannot meet.
    """
    everyone: Any = dist.group.WORLD if group is None else group
    rank, members = dist.get_rank(everyone), dist.get_process_group_ranks(everyone)
    _check(strategy, updates)
    message = [uuid4().hex]
    dist.broadcast_object_list(message, src=members[0], group=everyone)
    ranks = island_ranks(strategy.mesh, updates, rank)
    across = counterparts(strategy.mesh, updates, rank)
    bridge = subgroup([members[other] for other in across], f"meshwright/{message[0]}/bridge", everyone)
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


def _check(strategy: Strategy, updates: Updates) -> None:
    mesh, pipeline = strategy.mesh, strategy.pipeline
    if pipeline is not None and pipeline.schedule == "asynchronous":
        raise PlanError(
            f"{updates.summary} with a pipeline that is not emptied between steps",
            cause="a step's gradients would still be under way when islands meet, and be late twice",
            alternatives=["--set schedule=1f1b", "--set updates=every_step"],
            command="meshwright run SCRIPT",
        )
    degrees = (("pipeline", mesh.pp), ("context", mesh.cp), ("expert", mesh.ep), ("tensor", mesh.tp))
    split = ", ".join(f"{name} = {degree}" for name, degree in degrees if degree > 1)
    if split and updates.kind != "local":
        raise PlanError(
            f"{updates.summary} with {split}",
            cause="the workers of a split model take every step together, and here each updates by itself",
            alternatives=["--set updates=local", "--set updates=every_step"],
            command="meshwright run SCRIPT",
        )
    places = mesh.num_shares * mesh.cp // max(1, updates.islands)
    if mesh.ep > 1 and places % mesh.ep:
        raise PlanError(
            f"{updates.islands} islands with expert = {mesh.ep}",
            cause=f"all experts of a layer are inside one island, which has {places} "
            f"place{'s' if places > 1 else ''} for them: workers with other examples or parts of a sequence",
            alternatives=["fewer islands, or more data or context workers in each", "--set updates=every_step"],
            command="meshwright run SCRIPT",
        )
