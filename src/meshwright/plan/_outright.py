"""A plan for hardware that is not here: the search decides, nothing is tried."""

from collections.abc import Sequence
from dataclasses import fields, replace
from math import ceil, isfinite

from meshwright.cost import Pricer, Strategy
from meshwright.cost.hybrid import HybridPricer, Layout, Price, strategy_of
from meshwright.errors import DoesNotFitError, PlanError
from meshwright.graph import Graph, derived_splits
from meshwright.hardware import Cluster, Correction
from meshwright.plan._fit import itemised
from meshwright.plan._goal import Goal, Pins
from meshwright.plan._heap_room import with_heap_room
from meshwright.plan._known_figures import check_figures_of, with_common_figures
from meshwright.plan._legality import check_pins, no_strategy
from meshwright.plan._neighbourhood import best_of_neighbours, found_among, whole_front
from meshwright.plan._places import workers_of
from meshwright.plan._plan import Candidate, FrontPoint, Plan, PlannedStage, RankMemory
from meshwright.plan._rank_memory import fullest_of, ranks_of_layout
from meshwright.plan._remedies import Remedies
from meshwright.plan._space import OBSTACLES, SPLITS, settled
from meshwright.plan._target import aim_of, enough, target_of, tokens_of_step
from meshwright.plan.explanation import (
    Neighbour,
    binding,
    device_names,
    flips,
    more_memory,
    summary,
    with_memory,
)
from meshwright.plan.search import Aim, Found, Result, Search, limits
from meshwright.units import format_bytes, format_days, format_seconds


def is_elsewhere(cluster: Cluster) -> bool:
    """Whether a cluster was never measured: from the catalogue, or written by hand."""
    return not cluster.identity


def with_splits(graph: Graph) -> Graph:
    """The graph with what splits of it would do: as the capture found out, or derived."""
    return graph if graph.splits is not None else replace(graph, splits=derived_splits(graph))


def plan_outright(graph: Graph, cluster: Cluster, goal: Goal, *, correction: Correction | None = None) -> Plan:
    """The best plan by the model, with its reasons.

    Raises:
        PlanError: the pins allow nothing, no plan keeps the deadline or the budget, or what is weighed is not known.
        DoesNotFitError: no layout fits the memory.
    """
    graph = with_splits(graph)
    check_pins(graph, cluster, goal)
    check_figures_of(cluster, goal)
    if is_elsewhere(cluster):
        _check_split(graph, goal)
    pricer = Pricer(graph, with_common_figures(cluster), correction=correction or Correction())
    hybrid, aim, fixed = pricer.hybrid, aim_of(goal, graph), settled(goal, graph)
    result = Search(hybrid, fixed, aim).run()
    if result.best is None:
        raise _nothing(hybrid, graph, cluster, goal, aim)
    return replace(_plan(pricer, fixed, aim, result), origins=_origins(goal))


def _check_split(graph: Graph, goal: Goal) -> None:
    """Refuses to split a model whose step is another one every time; where it is captured, the program says so.

    Raises:
        PlanError: names the construct.
    """
    split = [f"{name} = {degree}" for name in SPLITS if (degree := getattr(goal.pins, name) or 1) > 1]
    if split and OBSTACLES & set(graph.traits):
        raise PlanError(
            f"{', '.join(split)}: {graph.model} is not one fixed graph",
            cause=graph.gaps[0] if graph.gaps else "it normalizes over the batch outside of a BatchNorm module",
            alternatives=["data parallelism, in shards or not: --set sharding=parameters", "a model without it"],
            command="meshwright plan SCRIPT --cluster CLUSTER, without them",
        )


def _plan(pricer: Pricer, goal: Goal, aim: Aim, result: Result) -> Plan:
    hybrid, graph = pricer.hybrid, pricer.workload.graph
    result, beside = best_of_neighbours(hybrid, goal, aim, result)
    chosen = result.best
    assert chosen is not None
    tightest = hybrid.tightest(chosen.layout)[1]
    limit = limits(hybrid, goal, chosen.layout)[tightest]
    layout, price = with_heap_room(hybrid, chosen.layout, goal.pins, limit=limit), chosen.price
    held = ranks_of_layout(hybrid, layout)
    workers = workers_of(layout, hybrid.hosts)
    strategy = _with_sharing(strategy_of(layout, graph, hybrid.units, workers), goal.pins)
    prediction = replace(hybrid.predict(layout), start=pricer.start(layout.kernels))
    roomy = more_memory(hybrid, goal, aim, layout)
    names = device_names(hybrid, layout)
    return Plan(
        model=graph.model,
        blocks=graph.block_paths,
        strategy=strategy,
        prediction=prediction,
        allow=goal.allow,
        minimize=aim.minimize,
        memory_limit=limit,
        capacity=hybrid.hosts[tightest].device.memory // hybrid.processes(layout, tightest)[1],
        binding=binding(hybrid, aim, layout, price, roomy),
        flips=tuple(flips(hybrid, goal, aim, chosen, found_among(beside), roomy)),
        candidates=(_candidate(summary(layout, names), price), *(_of_neighbour(one, aim) for one in beside)),
        cluster=f"{pricer.cluster.name} {pricer.cluster.identity}".strip(),
        gap=result.gap,
        front=tuple(_point(hybrid, one) for one in whole_front(hybrid, goal, aim, result, beside)),
        stages=stages_of(hybrid, layout, held),
        held=held,
        tokens=tokens_of_step(graph),
        target=target_of(goal, graph, prediction),
        corrections={} if pricer.correction == Correction() else {"model": pricer.correction},
    )


def _with_sharing(strategy: Strategy, pins: Pins) -> Strategy:
    """The strategy with shares that follow the workers' speed, where that is pinned.

    Raises:
        PlanError: it splits the model, whose workers wait for each other inside the step.
    """
    if pins.sharing != "adaptive":
        return strategy
    if strategy.mesh.splits_the_model:
        raise PlanError(
            f"sharing = 'adaptive' does not go with {', '.join(strategy.mesh.split_axes)}",
            cause="the workers of a split model wait for each other inside the step",
            alternatives=["--set sharing=fixed", "--set tensor=1 --set context=1 --set pipeline=1"],
            command="meshwright plan SCRIPT",
        )
    return replace(strategy, batch=replace(strategy.batch, sharing="adaptive"))


def stages_of(pricer: HybridPricer, layout: Layout, held: Sequence[RankMemory]) -> tuple[PlannedStage, ...]:
    """What is in every stage.

    Args:
        held: by the layout's workers.
    """
    ends = (*layout.bounds[1:], len(pricer.units.kinds))
    blocks, each = pricer.units.is_block, layout.mesh.num_workers // layout.mesh.pp
    fullest = [fullest_of(held, place * each, (place + 1) * each - 1) for place in range(layout.mesh.pp)]
    return tuple(
        PlannedStage(
            worker=place % layout.mesh.pp,
            first=pricer.units.paths[low],
            blocks=int(blocks[low:high].sum()),
            recomputed=sum(low <= unit < high for unit in layout.recomputed),
            memory=fullest[place % layout.mesh.pp].memory.peak,
            moment=fullest[place % layout.mesh.pp].moment,
        )
        for place, (low, high) in enumerate(zip(layout.bounds, ends, strict=True))
    )


def _candidate(text: str, price: Price) -> Candidate:
    return Candidate(summary=text, step=price.step, memory=price.peak)


def _of_neighbour(one: Neighbour, aim: Aim) -> Candidate:
    assert one.layout is not None, one.change
    assert one.price is not None, one.change
    text = f"{one.change}: {summary(one.layout)}"
    return Candidate(
        summary=text, step=one.price.step, memory=one.price.peak, reason=one.reason, fits=one.fits,
        value=aim.value(one.price),
    )  # fmt: skip


def _point(pricer: HybridPricer, found: Found) -> FrontPoint:
    layout, price = found.layout, found.price
    return FrontPoint(
        summary=summary(layout, device_names(pricer, layout)), workers=layout.mesh.num_workers, step=price.step,
        memory=price.peak, energy=price.energy, money=price.money,
    )  # fmt: skip


def _origins(goal: Goal) -> dict[str, str]:
    return {
        item.name: goal.origins.get(item.name, "file") if getattr(goal.pins, item.name) is not None else "default"
        for item in fields(Pins)
    }


def _nothing(pricer: HybridPricer, graph: Graph, cluster: Cluster, goal: Goal, aim: Aim) -> Exception:
    """Why there is no plan: the limits on the run, the memory, or the pins."""
    asked, goal = goal, settled(goal, graph)
    if aim != Aim(minimize=aim.minimize):
        fastest = Search(pricer, goal, Aim()).run().best
        cheapest = Search(pricer, goal, Aim(minimize="cost")).run().best if isfinite(aim.dearest) else fastest
        if fastest is not None and cheapest is not None:
            return _too_long(
                goal, graph, fastest, cheapest, aim, remedies=list(Remedies(pricer=pricer, goal=asked).listed())
            )
    roomy = with_memory(pricer, 1000.0)
    least = Search(roomy, replace(goal, memory_limit=0), Aim(minimize="memory")).run().best
    if least is None:
        return no_strategy(graph, cluster, asked)
    memory = max(least.price.memory, key=lambda items: items.peak)
    return DoesNotFitError(
        f"{graph.model} needs at least {format_bytes(memory.peak)} per device; "
        f"{format_bytes(min(limits(pricer, goal, least.layout)))} may be used",
        cause=f"{summary(least.layout, device_names(pricer, least.layout))}: {itemised(memory)}{_kept(least.layout)}",
        alternatives=[
            *Remedies(pricer=pricer, goal=asked).listed(),
            f"devices with {format_bytes(memory.peak)} for a worker, beside what plans leave free",
        ],
        command="meshwright plan SCRIPT, with one of these changes",
    )


def _kept(layout: Layout) -> str:
    if layout.exchange.updates is None:
        return ""
    return "; every worker keeps what its island agreed on last, momentum and message beside its parameters"


def _too_long(
    goal: Goal, graph: Graph, fastest: Found, cheapest: Found, aim: Aim, *, remedies: Sequence[str]
) -> PlanError:
    """What the limits would have to be, each by itself, and what they are for a step."""
    quick, cheap = (target_of(goal, graph, _Prediction(found.price)) for found in (fastest, cheapest))  # type: ignore[arg-type]
    assert quick is not None
    assert cheap is not None
    needed, allowed, ways = [f"the fastest takes {format_days(quick.time)} and ${quick.money:,.0f}"], [], []
    if isfinite(aim.longest):
        allowed.append(f"take {format_seconds(aim.longest)}")
        ways.append(f"--deadline of at least {enough(quick.time)}")
    if isfinite(aim.dearest):
        needed.append(f"the cheapest ${cheap.money:,.0f} and {format_days(cheap.time)}")
        allowed.append(f"cost ${aim.dearest:,.4g}")
        ways.append(f"--budget of at least {ceil(cheap.money)}")
    return PlanError(
        f"no plan keeps the limits: {', '.join(needed)}",
        cause=f"{quick.steps:,} steps; a step may {' and '.join(allowed)}; the fastest takes "
        f"{format_seconds(fastest.price.step)} and costs ${fastest.price.money:,.4g}",
        alternatives=[*ways, *remedies, "fewer tokens"],
        command="meshwright plan SCRIPT --cluster CLUSTER",
    )


class _Prediction:
    """A price in the form in which a target is computed."""

    def __init__(self, price: Price) -> None:
        self.time, self.energy, self.money = price.time, price.energy, price.money
