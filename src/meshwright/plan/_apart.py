"""Islands that split the model: the best layout over all workers for every number of replicas, and how islands meet.

An island's own exchange stays inside as few hosts as its workers need, which is what it is priced for.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import ceil

from meshwright.cost import Exchange, Mesh, Pricer, Strategy, Updates, counterparts, island_ranks
from meshwright.cost.hybrid import Layout, Order, strategy_of
from meshwright.plan._goal import Goal
from meshwright.plan._layouts import divisors
from meshwright.plan._places import workers_of
from meshwright.plan._priced import Priced, memory_limit
from meshwright.plan._space import compressions
from meshwright.plan._updates import ways_to_update
from meshwright.plan.search import Aim, Effort, Found, Search

_MOST_REPLICAS = 6  # numbers of replicas that are looked at; a pin asks for any other


@dataclass(frozen=True, kw_only=True, slots=True)
class Apart:
    """A layout whose islands meet from time to time.

    Args:
        item: the strategy and its price.
        layout: the same with exact steps.
    """

    item: Priced
    layout: Found

    def value(self, aim: Aim) -> float:
        """What is made small; time, money and energy for as much progress as an exact step makes."""
        prediction = self.item.prediction
        if aim.minimize == "memory":
            return float(prediction.memory.peak)
        step = {"time": prediction.time.step, "cost": prediction.money, "energy": prediction.energy}[aim.minimize]
        return self.item.pace(step)


def islands_of_splits(
    pricer: Pricer, goal: Goal, aim: Aim, *, effort: Effort, accept: Callable[[Mesh], bool]
) -> tuple[Apart, ...]:
    """Layouts with islands that meet, in the order of what the aim makes small; those that do not fit come last.

    Args:
        pricer: of a graph with its splits.
        goal: pins, allowances and the limit of memory.
        aim: what is made small.
        effort: of the search for each number of replicas.
        accept: which meshes are looked at.
    """
    pins = replace(goal.pins, updates=None, interval=None, islands=None, compression=None)
    found: dict[Strategy, Apart] = {}
    for data in _replicas(pricer, goal):
        exact = replace(goal, pins=replace(pins, data=data))
        best = Search(pricer.hybrid, exact, aim, effort=effort).run(accept=accept).best
        if best is not None:
            for each in _meeting(pricer, goal, best):
                if _is_within(each, aim):
                    found.setdefault(each.item.strategy, each)
    return tuple(sorted(found.values(), key=lambda each: (not each.item.fits, each.value(aim), each.item.rank)))


def most_workers(pricer: Pricer, goal: Goal) -> int:
    """As many as are asked for, or as there are places for."""
    hosts = pricer.hybrid.hosts
    each = [host.device.cores if host.device.kind == "cpu" else host.devices for host in hosts]
    return goal.pins.workers or sum(host.count * places for host, places in zip(hosts, each, strict=True))


def _replicas(pricer: Pricer, goal: Goal) -> tuple[int, ...]:
    pins = goal.pins
    if pins.data is not None:
        return (pins.data,) if pins.data > 1 else ()
    legal = [degree for degree in divisors(most_workers(pricer, goal)) if degree > 1]
    legal = [degree for degree in legal if degree % (pins.islands or 1) == 0]
    return tuple(legal[:: max(1, ceil(len(legal) / _MOST_REPLICAS))])


def _meeting(pricer: Pricer, goal: Goal, best: Found) -> Iterator[Apart]:
    """A layout with every way to meet, its stages beside one another or its replicas."""
    hybrid = pricer.hybrid
    for layout in dict.fromkeys((best.layout, replace(best.layout, order=_other(best.layout)))):
        workers = workers_of(layout, hybrid.hosts)
        strategy = strategy_of(layout, hybrid.graph, hybrid.units, workers)
        for exchange in _exchanges(strategy, goal):
            one = replace(strategy, exchange=exchange)
            if exchange.updates is None or not _can_part(one, exchange.updates):
                continue
            item = Priced(
                strategy=one, prediction=pricer.predict(one), memory_limit=memory_limit(pricer.cluster, goal, one)
            )
            yield Apart(item=item, layout=Found(layout=layout, price=hybrid.price(layout)))


def _other(layout: Layout) -> Order:
    return "pipeline_inside" if layout.order == "pipeline_outside" and layout.mesh.pp > 1 else "pipeline_outside"


def _exchanges(strategy: Strategy, goal: Goal) -> Iterator[Exchange]:
    # messages are compressed, not gradients: that these are in shards inside an island does not matter to them
    messages = compressions(replace(strategy, sharding="none"), goal)
    for updates in ways_to_update(strategy, goal):
        for compression in messages:
            yield replace(strategy.exchange, updates=updates, compression=compression)


def _can_part(strategy: Strategy, updates: Updates) -> bool:
    """Whether experts stay inside an island, and every island on as few hosts as its workers need."""
    mesh, workers = strategy.mesh, strategy.workers
    if (mesh.num_shares * mesh.cp // updates.islands) % mesh.ep:
        return False
    most = max(Counter(worker.host for worker in workers).values())
    islands = {island_ranks(mesh, updates, rank) for rank in counterparts(mesh, updates, 0)}
    return all(len({workers[rank].host for rank in ranks}) <= ceil(len(ranks) / most) for ranks in islands)


def _is_within(each: Apart, aim: Aim) -> bool:
    prediction = each.item.prediction
    return (
        prediction.time.step <= aim.longest and prediction.money <= aim.dearest and prediction.energy <= aim.most_energy
    )
