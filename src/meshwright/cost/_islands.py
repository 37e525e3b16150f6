"""Which workers agree in every step, where not all of them do, and what they do among themselves."""

from dataclasses import replace

from meshwright.cost._mesh import Mesh
from meshwright.cost._strategy import Strategy
from meshwright.cost._updates import Updates
from meshwright.errors import PlanError


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


def counterparts(mesh: Mesh, updates: Updates, rank: int) -> tuple[int, ...]:
    """The workers that have a rank's place on every island, itself included."""
    place = island_ranks(mesh, updates, rank).index(rank)
    return tuple(sorted({island_ranks(mesh, updates, other)[place] for other in range(mesh.num_workers)}))


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
