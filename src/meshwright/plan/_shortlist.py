"""The few strategies worth trying: all are priced, those that do not fit are out, the rest are in order."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

from meshwright.cost import Pricer, Strategy
from meshwright.graph import Graph
from meshwright.hardware import Cluster, Correction
from meshwright.plan._fit import does_not_fit
from meshwright.plan._goal import Goal, Pins
from meshwright.plan._legality import check_pins, no_strategy
from meshwright.plan._model_splits import model_splits
from meshwright.plan._outright import with_splits
from meshwright.plan._priced import Priced, choice, family, price_all

# A strategy slower than this by prediction is not tried: the interval of a prediction is narrower.
_WORTH_A_TRIAL = 1.6
# Splits of the model are tried that promise to be so much faster than everything else, and so many of them: every heat
# of one captures its program first, which takes seconds.
_WORTH_A_PROGRAM = 0.9
_MOST_SPLITS = 2
# Choices that a trial compares, one value at a time.
TRIED = (
    "matrix_library", "optimizer", "memory_format", "random", "compiled", "precision", "accumulation",
    "recompute", "sharding", "transport",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortlist:
    """What the trial is given, and what it is not.

    Args:
        candidates: to be tried, fastest first by prediction.
        others: the best of every family of layouts, and of every axis that splits the model, that is not worth a trial.
        too_large: of every family the fastest strategy that does not fit, where it would beat what fits of it.
        considered: how many strategies were priced.
        open_choices: choices, by their names in `Pins`, of which more than one value was priced.
        declined: those whose program cannot be split so, each with the reason.
    """

    candidates: tuple[Priced, ...]
    others: tuple[Priced, ...] = ()
    too_large: tuple[Priced, ...] = ()
    considered: int
    open_choices: tuple[str, ...] = ()
    declined: tuple[tuple[Priced, str], ...] = ()


def shortlist(
    graph: Graph, cluster: Cluster, goal: Goal, *, count: int = 6, correction: Correction | None = None
) -> Shortlist:
    """The best strategies that fit, from every family of layouts that comes near the best.

    Splits of the model are candidates where they promise to be faster, or where nothing else fits.

    Args:
        count: how many at most.
        correction: how far earlier predictions on this machine were off.

    Raises:
        PlanError: the pins allow nothing.
        DoesNotFitError: no strategy fits the memory; itemised, with the nearest changes that would fit.
    """
    check_pins(with_splits(graph), cluster, goal)
    pricer = Pricer(graph, cluster, correction=correction or Correction())
    priced = price_all(pricer, goal)
    fitting = sorted((item for item in priced if item.fits), key=lambda item: item.rank)
    best = min(fitting or priced, key=lambda item: item.rank, default=None)
    splits = model_splits(pricer, goal, like=best.strategy.kernels if best is not None else None)
    if not fitting and not splits:
        raise does_not_fit(pricer, goal, priced) if priced else no_strategy(graph, cluster, goal)
    promising = _promising(splits, fitting)[:count]
    whole = _diverse(fitting, count - len(promising)) if fitting and len(promising) < count else ()
    tried = {family(item.strategy) for item in whole}
    return Shortlist(
        candidates=tuple(sorted((*whole, *promising), key=lambda item: item.rank)),
        others=(*_best_of_families(fitting, without=tried), *(item for item in splits if item not in promising)),
        too_large=_barred(priced, fitting),
        considered=len(priced) + len(splits),
        open_choices=tuple(
            item.name
            for item in fields(Pins)
            if len({choice(each.strategy, item.name) for each in (*priced, *splits)}) > 1
        ),
    )


def _promising(splits: tuple[Priced, ...], fitting: list[Priced]) -> tuple[Priced, ...]:
    """Splits of the model that are worth a trial; all where nothing else fits."""
    if not fitting:
        return splits
    limit = fitting[0].rank[0] * _WORTH_A_PROGRAM
    return tuple(item for item in splits if item.rank[0] < limit)[:_MOST_SPLITS]


def _diverse(fitting: list[Priced], count: int) -> tuple[Priced, ...]:
    """What a trial learns most from: the best of every family near the best, then one value of one choice at a time.

    The family in which the script runs as it is written is among them however far its prediction: it is what users
    compare with, and rates measured on a busy machine are worst for many threads.
    """
    limit = fitting[0].rank[0] * _WORTH_A_TRIAL
    near = [item for item in fitting if item.rank[0] <= limit]
    plain = _plain_family(fitting)
    chosen = list(_best_of_families(near, without=set()))[: max(1, count - 1)]
    if count > 1 and plain is not None and family(plain.strategy) not in {family(item.strategy) for item in chosen}:
        chosen.append(plain)
    for item in near:
        if len(chosen) >= count:
            break
        if _brings_something_new(item, chosen):
            chosen.append(item)
    return tuple(sorted(chosen[:count], key=lambda item: item.rank))


def _plain_family(fitting: list[Priced]) -> Priced | None:
    """The best strategy of one worker with the most threads, or on one accelerator."""
    alone = [item for item in fitting if item.strategy.num_workers == 1]
    most = max((item.strategy.workers[0].threads for item in alone), default=0)
    return next((item for item in alone if item.strategy.workers[0].threads == most), None)


def _brings_something_new(item: Priced, chosen: list[Priced]) -> bool:
    """Whether some choice has a value here that none of the chosen ones of its family has."""
    relatives = [other.strategy for other in chosen if family(other.strategy) == family(item.strategy)]
    return any(
        tried_value(item.strategy, name) not in {tried_value(other, name) for other in relatives} for name in TRIED
    )


def tried_value(strategy: Strategy, name: str) -> object:
    """The value of a choice as far as a trial can tell it: whether there are micro-batches or shards, not how many."""
    if name == "precision":
        return strategy.precision.compute
    value = choice(strategy, name)
    return value in (1, "none") if name in ("accumulation", "sharding") else value


def _best_of_families(ordered: Iterable[Priced], *, without: set[tuple[int, int]]) -> tuple[Priced, ...]:
    best: dict[tuple[int, int], Priced] = {}
    for item in ordered:
        if family(item.strategy) not in without:
            best.setdefault(family(item.strategy), item)
    return tuple(best.values())


def _barred(priced: Iterable[Priced], fitting: list[Priced]) -> tuple[Priced, ...]:
    """Of every family the fastest strategy that does not fit, where it is faster than the family's best that does."""
    best = {family(item.strategy): item for item in _best_of_families(fitting, without=set())}
    ordered = sorted((item for item in priced if not item.fits), key=lambda item: item.rank)
    fastest = _best_of_families(ordered, without=set())
    return tuple(
        item for item in fastest if family(item.strategy) not in best or item.rank < best[family(item.strategy)].rank
    )
