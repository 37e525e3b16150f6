"""Compiled blocks on a CPU are tried where the run is long enough, and chosen where the trial says so."""

from dataclasses import replace

import pytest

import planning_builders as build
from meshwright.cost import Kernels, Pricer
from meshwright.hardware import Correction
from meshwright.plan import Goal, Pins, TrialResult, choose, compiled_rival, shortlist, winner

GRAPH = build.multilayer(layers=4, batch=64)
PINS = Pins(workers=1, threads=1, matrix_library="default", allocator="default", optimizer="as_written")
STEP = 0.02
START = Pricer(GRAPH, build.machine()).start(Kernels(compiled=True))
# 5 % of the run is what finding out may take.
ENOUGH = round(START / STEP / 0.05) + 1


def _rival(goal: Goal):
    cluster = build.machine()
    listed = shortlist(GRAPH, cluster, goal)
    trials = {index: TrialResult(step=STEP + index, memory=1) for index in range(len(listed.candidates))}
    rival = compiled_rival(GRAPH, cluster, goal, listed, trials, correction=Correction())
    return cluster, listed, trials, rival


@pytest.mark.parametrize("steps", [0, 10, ENOUGH - 2])
def test_a_run_that_is_short_or_of_unknown_length_tries_no_compiling(steps: int) -> None:
    assert _rival(Goal(pins=PINS, steps=steps))[3] is None


@pytest.mark.parametrize("pinned", [True, False])
def test_a_pinned_choice_is_no_question(pinned: bool) -> None:
    assert _rival(Goal(pins=replace(PINS, compiled=pinned), steps=10 * ENOUGH))[3] is None


@pytest.mark.parametrize(("speedup", "compiled"), [(1.2, True), (0.9, False)])
def test_the_trial_of_the_compiled_winner_decides(speedup: float, compiled: bool) -> None:
    goal = Goal(pins=PINS, steps=10 * ENOUGH)
    cluster, listed, trials, rival = _rival(goal)
    assert rival is not None
    best = listed.candidates[winner(listed, trials)]
    assert replace(best.strategy, kernels=rival.strategy.kernels) == rival.strategy
    assert rival.strategy.kernels.compiled
    both = replace(listed, candidates=(*listed.candidates, rival))
    trials[len(listed.candidates)] = TrialResult(step=STEP / speedup, memory=1)
    plan = choose(GRAPH, cluster, goal, both, trials)
    assert plan.strategy.kernels.compiled == compiled
    assert plan.prediction.time.step == pytest.approx(STEP / speedup if compiled else STEP)
