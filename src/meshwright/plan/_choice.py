"""The plan: the trial's times decide, or the predictions where nothing was tried; every loser gets its reason."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from statistics import median

from meshwright.cost import Prediction, Pricer, Strategy, TimeBreakdown
from meshwright.cost.hybrid import layout_of
from meshwright.graph import Graph
from meshwright.hardware import Cluster, Correction
from meshwright.plan._flips import Contender, binding, flips
from meshwright.plan._goal import Goal, Pins
from meshwright.plan._outright import stages_of, with_splits
from meshwright.plan._plan import Candidate, Plan, PlannedStage, RankMemory
from meshwright.plan._priced import Priced, capacity, num_departures, spans_hosts
from meshwright.plan._rank_memory import held_by_rank
from meshwright.plan._reasons import slower, too_large
from meshwright.plan._shortlist import Shortlist
from meshwright.plan._target import target_of, tokens_of_step
from meshwright.plan._trial_result import TrialResult

# Steps nearer to the best than this are a draw; of these the one nearest to the script as written is taken.
_DRAW = 0.01


def choose(
    graph: Graph,
    cluster: Cluster,
    goal: Goal,
    shortlist: Shortlist,
    trials: Mapping[int, TrialResult] | None = None,
    *,
    correction: Correction | None = None,
) -> Plan:
    """Chooses, and says why.

    Args:
        shortlist: what was considered.
        trials: measured steps, by index into `shortlist.candidates`; none where nothing was run.
        correction: the one that the shortlist was priced with.
    """
    results, failures = _told_apart(trials or {})
    index = _chosen(shortlist.candidates, results, failures)
    chosen, trial = shortlist.candidates[index], results.get(index)
    factor = _typical_factor(shortlist.candidates, results)
    rest = [place for place in range(len(shortlist.candidates)) if place != index]
    contenders = [_contender(shortlist.candidates[place], results.get(place), factor) for place in (index, *rest)]
    # a split that was not worth a trial is priced less surely than what would be said of it
    others = [item for item in shortlist.others if not item.strategy.mesh.splits_the_model]
    contenders += [_contender(item, None, factor) for item in others]
    pricer = Pricer(with_splits(graph), cluster, correction=correction or Correction())
    prediction = anchored(chosen.prediction, trial)
    held = held_by_rank(pricer, chosen.strategy)
    return Plan(
        model=graph.model,
        blocks=graph.block_paths,
        strategy=chosen.strategy,
        prediction=prediction,
        allow=goal.allow,
        memory_limit=chosen.memory_limit,
        capacity=max(capacity(cluster, chosen.strategy), chosen.memory_limit),
        binding=binding(contenders[0], shortlist.too_large),
        flips=flips(pricer, contenders, shortlist.too_large),
        candidates=_candidates(shortlist, results, failures, index),
        origins=_origins(goal, shortlist),
        cluster=f"{cluster.name} {cluster.identity}".strip(),
        stages=_stages(pricer, chosen.strategy, held),
        held=held,
        tokens=tokens_of_step(graph),
        target=target_of(goal, graph, prediction),
        corrections={} if correction is None else {"model": correction},
    )


def winner(shortlist: Shortlist, trials: Mapping[int, TrialResult]) -> int:
    """Index of the candidate that is chosen after these trials."""
    return _chosen(shortlist.candidates, *_told_apart(trials))


def _stages(pricer: Pricer, strategy: Strategy, held: Sequence[RankMemory]) -> tuple[PlannedStage, ...]:
    if strategy.mesh.pp == 1:
        return ()
    layout = layout_of(strategy, pricer.hybrid.units, pricer.hybrid.hosts)
    return stages_of(pricer.hybrid, layout, held)


def anchored(prediction: Prediction, trial: TrialResult | None) -> Prediction:
    """A prediction whose items are scaled so that they add up to the step that the trial measured."""
    if trial is None:
        return prediction
    scale = trial.step / prediction.time.step
    time = TimeBreakdown(**{item.name: getattr(prediction.time, item.name) * scale for item in fields(TimeBreakdown)})
    return replace(
        prediction,
        basis="trial",
        time=time,
        low=min(trial.step, trial.low or prediction.low * scale),
        high=max(trial.step, trial.high or prediction.high * scale),
        energy=prediction.energy * scale,
        money=prediction.money * scale,
    )


def _told_apart(trials: Mapping[int, TrialResult]) -> tuple[dict[int, TrialResult], dict[int, str]]:
    """Those that ran, and why the others did not."""
    results = {index: result for index, result in trials.items() if not result.failure}
    return results, {index: result.failure for index, result in trials.items() if result.failure}


def _chosen(candidates: Sequence[Priced], results: Mapping[int, TrialResult], failures: Mapping[int, str]) -> int:
    """Index of the best: by trial among those tried that stayed within memory, otherwise by prediction.

    What runs on several hosts cannot be tried on this one: its prediction counts, as far off as those of the tried are.
    """
    within = [index for index, result in results.items() if result.memory <= candidates[index].memory_limit]
    steps = {index: candidates[index].pace(results[index].step) for index in within or results}
    factor = _typical_factor(candidates, results)
    for index, item in enumerate(candidates):
        if results and index not in results and index not in failures and spans_hosts(item.strategy):
            steps[index] = item.rank[0] * factor
    if not steps:
        untried = [index for index in range(len(candidates)) if index not in failures] or range(len(candidates))
        steps = {index: candidates[index].rank[0] for index in untried}
    best = min(steps.values())
    draw = [index for index, step in steps.items() if step <= best * (1 + _DRAW)]
    return min(draw, key=lambda index: (num_departures(candidates[index].strategy), steps[index]))


def _typical_factor(candidates: Sequence[Priced], results: Mapping[int, TrialResult]) -> float:
    return median([result.step / candidates[index].prediction.time.step for index, result in results.items()] or [1.0])


def _contender(item: Priced, trial: TrialResult | None, factor: float) -> Contender:
    return Contender(priced=item, factor=trial.step / item.prediction.time.step if trial else factor)


def _candidates(
    shortlist: Shortlist, results: Mapping[int, TrialResult], failures: Mapping[int, str], index: int
) -> tuple[Candidate, ...]:
    """Every candidate with its reason: the chosen one, the tried ones by time, the untried, those that do not fit."""
    chosen = shortlist.candidates[index]
    trial = results.get(index)
    best = trial.step if trial else chosen.prediction.time.step
    rows = [_candidate(chosen, trial, "")]
    rest = [place for place in range(len(shortlist.candidates)) if place != index]
    rest.sort(key=lambda place: (place not in results, results[place].step if place in results else place))
    for place in rest:
        item, result = shortlist.candidates[place], results.get(place)
        against = best if result or not trial else chosen.prediction.time.step
        failed = f"its trial failed: {failures[place]}" if place in failures else ""
        rows.append(_candidate(item, result, failed or slower(item, chosen, trial=result, best=against)))
    for item in shortlist.others:
        reason = slower(item, chosen, trial=None, best=chosen.prediction.time.step)
        rows.append(_candidate(item, None, reason))
    rows += [replace(_candidate(item, None, too_large(item)), fits=False) for item in shortlist.too_large]
    rows += [_candidate(item, None, f"cannot be done: {reason}") for item, reason in shortlist.declined]
    return tuple(rows)


def _candidate(item: Priced, trial: TrialResult | None, reason: str) -> Candidate:
    return Candidate(
        summary=item.strategy.summary,
        step=item.prediction.time.step,
        memory=item.prediction.memory.peak,
        trial=trial.step if trial else 0.0,
        reason=reason,
        value=item.pace(trial.step if trial else item.prediction.time.step),
    )


def _origins(goal: Goal, shortlist: Shortlist) -> dict[str, str]:
    """Where each choice comes from: a pin's own origin; what was priced from measured rates; else the default."""
    origins = {}
    for item in fields(Pins):
        if getattr(goal.pins, item.name) is not None:
            origins[item.name] = goal.origins.get(item.name, "file")
        else:
            origins[item.name] = "measured" if item.name in shortlist.open_choices else "default"
    return origins
