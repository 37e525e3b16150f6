"""What a search leaves: neighbours that are better than what it found, and layouts that are best by another measure."""

from collections.abc import Sequence
from dataclasses import replace

from meshwright.cost.hybrid import HybridPricer
from meshwright.plan._goal import Goal
from meshwright.plan.explanation import Neighbour, neighbours
from meshwright.plan.search import Aim, Effort, Found, Result, Search, front_of

_WORTH_IT = 1e-3  # what a neighbour must gain to take the place of what was found
_ROUNDS = 2
_PARTS = (4, 8)  # of the devices, one of which may cost less
_GLANCE = Effort(priced=4, visited=60, total=240)


def best_of_neighbours(
    pricer: HybridPricer, goal: Goal, aim: Aim, result: Result, *, rounds: int = _ROUNDS
) -> tuple[Result, list[Neighbour]]:
    """A search's result, or the best neighbour in its place, as often as one is better; and the neighbours, best first.

    A search of a large space stops before everything was looked at; its neighbours are searched one by one.

    Args:
        rounds: how often a neighbour may take the place.
    """
    assert result.best is not None
    price = result.best.price
    least = aim.value(price) * (1 - result.gap)
    beside = sorted(
        neighbours(pricer, goal, aim, result.best.layout, price, least=least),
        key=lambda one: (not one.fits, aim.value(one.price) if one.price else 0.0),
    )
    rivals = found_among(beside)
    if not rounds or not rivals or aim.value(rivals[0].price) >= aim.value(price) * (1 - _WORTH_IT):
        return result, beside
    gap = max(0.0, 1 - least / aim.value(rivals[0].price))
    better = replace(result, best=rivals[0], gap=gap, front=front_of((rivals[0], *result.front)))
    return best_of_neighbours(pricer, goal, aim, better, rounds=rounds - 1)


def found_among(beside: Sequence[Neighbour]) -> list[Found]:
    """Neighbours that fit, with their prices."""
    return [Found(layout=one.layout, price=one.price) for one in beside if one.fits and one.layout and one.price]


def whole_front(
    pricer: HybridPricer, goal: Goal, aim: Aim, result: Result, beside: Sequence[Neighbour]
) -> tuple[Found, ...]:  # fmt: skip
    """What no other priced layout beats in time, money and memory at once, fastest first.

    Fewer devices may be cheaper, and no search for the fastest prices them: a quarter and an eighth of them are
    searched by themselves for what costs less, where prices are known.
    """
    seen = [*result.front, *found_among(beside)]
    chosen = result.best.layout.mesh.num_workers if result.best is not None else 1
    if len(pricer.hosts) == 1 and goal.pins.workers is None:
        for part in (one for one in _PARTS if chosen % one == 0):
            pins = replace(goal.pins, workers=chosen // part)
            cheaper = replace(aim, dearest=min(aim.dearest, *(one.price.money for one in seen)) or aim.dearest)
            seen += Search(pricer, replace(goal, pins=pins), cheaper, effort=_GLANCE).run().front
    return front_of(seen)
