"""The choice, its reasons, and what would flip it."""

from pathlib import Path

import pytest

import planning_builders as build
from meshwright.cost import Pricer
from meshwright.documents import read_toml, write_toml
from meshwright.errors import DocumentError
from meshwright.plan import (
    Goal,
    Pins,
    Plan,
    Shortlist,
    TrialResult,
    choose,
    difference,
    explain,
    read_plan,
    shortlist,
    write_plan,
)
from meshwright.plan._priced import price_all

GRAPH = build.multilayer(layers=4, batch=64)
QUIET = Pins(matrix_library="default", allocator="default", optimizer="as_written", sharding="none")


def _plan(trials: dict[int, TrialResult] | None = None, goal: Goal | None = None, **machine: float) -> Plan:
    cluster, goal = build.machine(**machine), goal or Goal(pins=QUIET)
    return choose(GRAPH, cluster, goal, shortlist(GRAPH, cluster, goal), trials)


def test_without_a_trial_the_prediction_decides() -> None:
    """2 threads: 1.536 GFLOP at 180 GFLOP/s = 8.5 ms, fresh memory 3.5 ms, update 6.2 ms."""
    plan = _plan()
    assert plan.strategy.summary == "1 worker × 2 threads"
    assert plan.prediction.basis == "model"
    assert plan.blocks == ("layers.0", "layers.1", "layers.2", "layers.3")
    assert plan.candidates[0].reason == ""
    assert all(candidate.reason for candidate in plan.candidates[1:])


def test_the_trial_decides_against_the_prediction() -> None:
    listed = shortlist(GRAPH, build.machine(), Goal(pins=QUIET))
    second = next(index for index, item in enumerate(listed.candidates) if item.strategy.num_workers == 2)
    trials = {index: TrialResult(step=0.030, memory=1) for index in range(len(listed.candidates))}
    trials[second] = TrialResult(step=0.020, low=0.019, high=0.023, memory=1)
    plan = _plan(trials)
    assert plan.strategy.num_workers == 2
    assert plan.prediction.basis == "trial"
    assert plan.prediction.time.step == pytest.approx(0.020)
    assert (plan.prediction.low, plan.prediction.high) == (0.019, 0.023)
    loser = plan.candidates[1]
    assert loser.trial == 0.030
    assert loser.reason.startswith("10 ms (50%) slower in the trial, where the model expected ")


def test_a_draw_goes_to_the_script_as_written() -> None:
    """Within 1 % of the best trial, the strategy with fewer departures is taken."""
    goal = Goal(pins=Pins(workers=1, threads=2, matrix_library="default", allocator="default"))
    listed = shortlist(GRAPH, build.machine(), goal)
    plain = next(
        index for index, item in enumerate(listed.candidates) if item.strategy.summary == "1 worker × 2 threads"
    )
    trials = {index: TrialResult(step=0.0200) for index in range(len(listed.candidates))}
    trials[plain] = TrialResult(step=0.0201)
    plan = _plan(trials, goal)
    assert plan.strategy.summary == "1 worker × 2 threads"
    trials[plain] = TrialResult(step=0.0210)
    assert _plan(trials, goal).strategy.summary != "1 worker × 2 threads"


def test_a_trial_that_went_over_the_memory_is_not_chosen() -> None:
    listed = shortlist(GRAPH, build.machine(), Goal(pins=QUIET))
    trials = {index: TrialResult(step=0.030, memory=1) for index in range(len(listed.candidates))}
    trials[0] = TrialResult(step=0.010, memory=build.GB * 1000)
    assert _plan(trials).strategy != listed.candidates[0].strategy


def test_compiling_pays_only_over_enough_steps() -> None:
    """Compiled, a trial's step is 1 ms faster and starting takes 2.06 s: worth it from 2060 steps on."""
    cluster = build.accelerators(hosts=1, devices=1)
    for steps, compiled in ((1000, False), (10000, True)):
        goal = Goal(steps=steps, pins=Pins(recompute="none", accumulation=1, optimizer="as_written"))
        listed = shortlist(GRAPH, cluster, goal)
        unlike = [item.strategy.kernels.compiled for item in listed.candidates]
        assert unlike.count(True) <= 1
        both = Shortlist(
            candidates=tuple(
                item for item in price_all(Pricer(GRAPH, cluster), goal) if item.strategy.batch.accumulation == 1
            )[:2],
            considered=2,
        )
        trials = {
            index: TrialResult(step=0.009 if item.strategy.kernels.compiled else 0.010)
            for index, item in enumerate(both.candidates)
        }
        assert choose(GRAPH, cluster, goal, both, trials).strategy.kernels.compiled is compiled


def test_a_reason_names_what_the_exchange_adds_and_what_it_saves() -> None:
    """16 MB over gloo (0.6 of what is hidden, and the rest) against computing and updating with one thread each."""
    plan = _plan(latency=1e-3, bandwidth=1e9, goal=Goal(pins=Pins(transport="gloo", matrix_library="default")))
    reasons = [item.reason for item in plan.candidates if item.summary.startswith("2 workers")]
    assert "exchange of 15.26 MiB over gloo adds " in reasons[0]
    assert "computing saves " in reasons[0]


def test_a_much_slower_candidate_is_told_in_times_not_in_percent() -> None:
    listed = shortlist(GRAPH, build.machine(), Goal(pins=QUIET))
    plan = _plan({index: TrialResult(step=0.5 if index else 0.02) for index in range(len(listed.candidates))})
    assert plan.candidates[1].reason.startswith("480 ms (25 times as long) slower in the trial")


def test_a_faster_exchange_flips_the_choice_exactly_where_it_says() -> None:
    """With 1024 examples two workers save 13.6 ms of computing and lose 5 ms in the update."""
    graph, goal = build.multilayer(layers=4, batch=1024), Goal(pins=QUIET)

    def best(times: float) -> Plan:
        cluster = build.machine(latency=1e-4 / times, bandwidth=0.05e9 * times)
        return choose(graph, cluster, goal, shortlist(graph, cluster, goal))

    plan = best(1.0)
    flip = next(text for text in plan.flips if "as fast" in text)
    times = float(flip.split()[2])
    assert plan.strategy.num_workers == 1
    assert best(times * 1.5).strategy.num_workers == 2  # by more than a draw
    assert best(times * 0.85).strategy.num_workers == 1


def test_a_larger_batch_flips_the_choice_where_it_says() -> None:
    plan = _plan(latency=1e-4, bandwidth=0.2e9)
    flip = next(text for text in plan.flips if text.startswith("a batch of"))
    size = int(flip.split()[3])
    graph, cluster = build.multilayer(layers=4, batch=size), build.machine(latency=1e-4, bandwidth=0.2e9)
    goal = Goal(pins=QUIET)
    assert shortlist(graph, cluster, goal).candidates[0].strategy.num_workers == 2


def test_memory_binds_where_a_faster_strategy_does_not_fit() -> None:
    """Activations of 4 · 100 MB per worker do not fit in 500 MB; with micro-batches they do, at a price."""
    graph = build.multilayer(layers=4, batch=1000, scale=25.0)
    pins = Pins(workers=1, matrix_library="default", allocator="default")
    cluster, goal = build.machine(build.processor(overhead=1e-5)), Goal(memory_limit=500_000_000, pins=pins)
    plan = choose(graph, cluster, goal, shortlist(graph, cluster, goal))
    assert plan.strategy.batch.accumulation > 1
    assert plan.binding.startswith("memory: 1 worker × 2 threads would take ")
    assert plan.flips[0].startswith("with 6")
    rejected = [item for item in plan.candidates if not item.fits]
    assert rejected[0].reason.startswith("needs 6")


def test_origins() -> None:
    goal = Goal(pins=Pins(workers=1, allocator="retained"), origins={"workers": "command line"})
    origins = _plan(goal=goal).origins
    assert origins["workers"] == "command line"
    assert origins["allocator"] == "file"
    assert origins["threads"] == "measured"
    assert origins["memory_format"] == "default"


def test_an_explanation_says_what_comes_next_and_by_how_much() -> None:
    plan = _plan({0: TrialResult(step=0.020), 1: TrialResult(step=0.025)})
    explanation = explain(plan)
    assert explanation.step == pytest.approx(0.020)
    assert explanation.margin == pytest.approx(0.005)
    assert explanation.next_best == plan.candidates[1]
    assert sum(seconds for _, seconds in explanation.time) == pytest.approx(0.020)
    assert sum(size for _, size in explanation.memory) == plan.prediction.memory.peak
    assert {item.name: item.value for item in explanation.decisions}["threads"] == "2"


def test_the_difference_of_two_plans_names_what_differs_only() -> None:
    first, second = _plan(), _plan(goal=Goal(pins=Pins(workers=1, threads=1, matrix_library="default")))
    assert difference(first, first) == ()
    names = {item.name: (item.first, item.second) for item in difference(first, second)}
    assert names["threads"] == ("2", "1")
    assert "workers" not in names
    assert "step" in names


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan = _plan({0: TrialResult(step=0.020, low=0.019, high=0.021)})
    write_plan(plan, tmp_path / "plan.toml")
    assert read_plan(tmp_path / "plan.toml") == plan


def test_a_goal_survives_its_file(tmp_path: Path) -> None:
    goal = Goal(pins=Pins(workers=2), allow=("precision",), memory_limit=5, steps=7, origins={"workers": "file"})
    write_toml(goal, tmp_path / "goal.toml")
    assert read_toml(Goal, tmp_path / "goal.toml") == goal


def test_a_misspelt_key_of_a_plan_is_named(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    write_plan(_plan(), path)
    path.write_text(path.read_text().replace("memory_limit", "memory_limmit"))
    with pytest.raises(DocumentError, match="did you mean 'memory_limit'"):
        read_plan(path)


def test_a_strategy_whose_trial_failed_is_never_chosen_and_says_why() -> None:
    listed = shortlist(GRAPH, build.machine(), Goal(pins=QUIET))
    failed = {0: TrialResult(step=0.0, failure="RuntimeError: out of luck")}
    for trials in (failed, failed | {1: TrialResult(step=0.5, memory=1)}):
        plan = _plan(trials)
        assert plan.strategy == listed.candidates[1].strategy
        assert "its trial failed: RuntimeError: out of luck" in {candidate.reason for candidate in plan.candidates}
