"""The best strategies that split the model itself: for every axis one, found by the search."""

from collections.abc import Callable
from dataclasses import replace

from meshwright.cost import Kernels, Mesh, Pricer, Strategy
from meshwright.cost.hybrid import strategy_of
from meshwright.graph import Graph, Splits
from meshwright.plan._goal import Goal, Pins
from meshwright.plan._outright import with_splits
from meshwright.plan._places import workers_of
from meshwright.plan._priced import Priced, memory_limit
from meshwright.plan._space import OBSTACLES
from meshwright.plan.search import Aim, Effort, Found, Search, limits

# Of one axis on one machine; there the search ends by itself long before.
_EFFORT = Effort(priced=20, visited=200, total=2_000)
# What carries activations as well as gradients.
_CARRIERS = ("gloo", "nccl", "shared_memory")
_USES: dict[str, tuple[Callable[[Splits], bool], Callable[[Mesh], bool]]] = {
    "tensor": (lambda splits: splits.tensor is not None, lambda mesh: mesh.tp > 1),
    "context": (lambda splits: splits.context is not None, lambda mesh: mesh.cp > 1),
    "expert": (lambda splits: splits.expert is not None, lambda mesh: mesh.ep > 1),
    "pipeline": (lambda splits: bool(splits.cuts), lambda mesh: mesh.pp > 1),
}


def model_splits(pricer: Pricer, goal: Goal, *, like: Kernels | None) -> tuple[Priced, ...]:
    """Of every axis the fastest strategy that uses it and fits, alone or with other axes; fastest first.

    Args:
        pricer: of the graph; its splits are derived from its operations where nobody found out.
        goal: pins, allowances and the limit of memory.
        like: kernels that are taken over, for what is fastest for a model is fastest for its parts; None: all are open.
    """
    if not _may_split(pricer.workload.graph, goal.pins):
        return ()
    graph = with_splits(pricer.workload.graph)
    whole = Pricer(graph, pricer.cluster, correction=pricer.correction)
    goal = replace(goal, pins=_with_kernels(goal.pins, like))
    found: dict[Strategy, Priced] = {}
    for exists, uses in _USES.values():
        if graph.splits is None or not exists(graph.splits):
            continue
        best = Search(whole.hybrid, goal, Aim(), effort=_EFFORT).run(accept=uses).best
        item = None if best is None else _priced(whole, goal, best)
        if item is not None:
            found.setdefault(item.strategy, item)
    threads = goal.pins.threads
    return tuple(
        sorted(
            (item for item in found.values() if threads in (None, item.strategy.workers[0].threads)),
            key=lambda item: item.rank,
        )
    )


def _may_split(graph: Graph, pins: Pins) -> bool:
    """Whether the step is one program, and no pin asks for what only whole models have."""
    whole_only = (
        pins.workers == 1,
        pins.compiled,
        pins.sharing == "adaptive",
        pins.compression not in (None, "none") and pins.updates != "local",
        pins.updates not in (None, "every_step", "local"),
        pins.transport not in (None, *_CARRIERS),
    )
    return not any(whole_only) and not OBSTACLES & set(graph.traits)


def _with_kernels(pins: Pins, kernels: Kernels | None) -> Pins:
    if kernels is None:
        return replace(pins, compiled=False)
    return replace(
        pins,
        matrix_library=pins.matrix_library or kernels.matrix_library,
        allocator=pins.allocator or kernels.allocator,
        memory_format=pins.memory_format or kernels.memory_format,
        random=pins.random or kernels.random,
        compiled=False,
    )


def _priced(pricer: Pricer, goal: Goal, found: Found) -> Priced:
    hybrid, layout = pricer.hybrid, found.layout
    strategy = strategy_of(layout, hybrid.graph, hybrid.units, workers_of(layout, hybrid.hosts))
    limit = memory_limit(pricer.cluster, goal, strategy)
    if len(layout.replicas) > 1:  # the search has looked at each worker's own
        limit = limits(hybrid, goal, layout)[hybrid.tightest(layout)[1]]
    return Priced(
        strategy=strategy,
        prediction=replace(hybrid.predict(layout), start=pricer.start(layout.kernels)),
        memory_limit=limit,
    )
