"""What every worker of a plan holds at its peak, and when; those in a row that hold the same stand together."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import groupby

from meshwright.cost import Pricer, Strategy, find_host
from meshwright.cost.hybrid import HybridPricer, Layout, layout_of, peak_moment, sorts_of
from meshwright.plan._plan import RankMemory
from meshwright.plan._priced import shares_of_memory


def held_by_rank(pricer: Pricer, strategy: Strategy) -> tuple[RankMemory, ...]:
    """What the workers of a strategy hold."""
    if strategy.mesh.splits_the_model or strategy.workers[0].device != "cpu":
        hybrid = pricer.hybrid
        layout = layout_of(strategy, hybrid.units, hybrid.hosts)
        return _of_sorts(hybrid, layout, sorts_of(strategy, hybrid.hosts))
    return _joined(_of_whole(pricer, strategy))


def ranks_of_layout(pricer: HybridPricer, layout: Layout) -> tuple[RankMemory, ...]:
    """What the workers of a layout hold, whose replicas stand on data ranks one after another."""
    sorts = [number for number, replica in enumerate(layout.replicas) for _ in range(replica.count)]
    return _of_sorts(pricer, layout, sorts)


def fullest_of(held: Sequence[RankMemory], first: int, last: int) -> RankMemory:
    """What the fullest of some workers in a row holds."""
    among = (one for one in held if one.first <= last and one.last >= first)
    return max(among, key=lambda one: one.memory.peak)


def _of_sorts(pricer: HybridPricer, layout: Layout, sorts: Sequence[int]) -> tuple[RankMemory, ...]:
    """What workers hold, the pipeline's first ones first.

    Args:
        sorts: for every data rank, which of the layout's replicas it is.
    """
    inner, stages = layout.mesh.tp * layout.mesh.cp, pricer.stages(layout)
    _, weights = pricer.local(layout.division)
    memory = [pricer.memory(layout, stages, replica) for replica in layout.replicas]

    @cache
    def of(place: int, sort: int) -> RankMemory:
        replica = layout.replicas[sort]
        kind = replica.kinds[place]
        device, pieces = pricer.hosts[kind].device, pricer.pieces_for(layout, replica, kind)
        return RankMemory(
            first=0, last=inner - 1, device=device.name, memory=memory[sort][place],
            moment=peak_moment(pricer.graph, layout, stages, weights, pieces, rank=place, replica=replica),
            capacity=device.memory // pricer.processes(layout, kind)[1],
        )  # fmt: skip

    return _joined(of(place, sort) for place in range(layout.mesh.pp) for sort in sorts)


def _of_whole(pricer: Pricer, strategy: Strategy) -> Iterator[RankMemory]:
    """Each worker of a whole model on processors."""
    capacities = shares_of_memory(pricer.cluster, strategy)
    for worker in strategy.workers:
        memory, moment = pricer.peak_of(strategy, worker)
        yield RankMemory(
            first=0, last=0, device=find_host(pricer.cluster, worker).device.name, memory=memory, moment=moment,
            capacity=capacities[worker.rank],
        )  # fmt: skip


def _joined(each: Iterator[RankMemory]) -> tuple[RankMemory, ...]:
    """Neighbours that hold the same as one, their ranks counted from 0."""
    found, first = [], 0
    for one, same in groupby(each):
        last = first + sum(item.last + 1 for item in same) - 1
        found.append(replace(one, first=first, last=last))
        first = last + 1
    return tuple(found)
