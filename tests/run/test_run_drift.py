"""Steps that are off the forecast, and steps that become slow."""

from dataclasses import replace

from meshwright.cost import TimeBreakdown
from meshwright.documents import write_toml
from meshwright.graph import write_graph
from meshwright.hardware import write_cluster
from meshwright.plan import Candidate, Goal, Pins, better_plan, choose, plan_outright, shortlist
from meshwright.run._drift import Drift, Forecast
from meshwright.run._opening import Request
from meshwright.run._reconsideration import reconsideration
from planning_builders import machine, multilayer

PROMISED = Forecast(step=0.10, low=0.09, high=0.12)


def test_drift_is_told_once_and_again_after_it_was_over():
    drift = Drift(None)
    told = [drift.add(0.10, step) for step in range(1, 21)]
    told += [drift.add(0.25, step) for step in range(21, 61)]
    told += [drift.add(0.10, step) for step in range(61, 81)]
    told += [drift.add(0.30, step) for step in range(81, 101)]
    told = [text for text in told if text]
    assert len(told) == 2
    assert told[0].startswith(
        "meshwright: steps 21 to 40 took 250 ms each, 2.5 × the 100 ms they took at the start: the load of the machine"
    )


def test_short_steps_are_watched_over_two_seconds():
    """32 steps of 62.5 ms are 2 s; of 125 ms, 20 steps are more than that."""
    drift = Drift(None)
    told = {step: text for step in range(1, 60) if (text := drift.add(0.0625 if step <= 32 else 0.125, step))}
    assert list(told) == [52]
    assert told[52].startswith("meshwright: steps 33 to 52 took 125 ms each, 2.0 × the 62.5 ms they took at the start")


def sentences(forecast, duration):
    drift = Drift(forecast)
    return [text for step in range(1, 61) if (text := drift.add(duration, step))]


def test_steps_inside_the_interval_are_nothing_to_speak_of():
    assert sentences(PROMISED, 0.115) == []
    assert sentences(PROMISED, 0.125) == []


def test_steps_outside_the_interval_are_told_once_in_either_direction():
    (slow,) = sentences(PROMISED, 0.20)
    assert slow == (
        "meshwright: steps 1 to 20 took 200 ms each, outside the predicted 90 ms to 120 ms: the machine is busier than "
        "when the plan was made, or the prediction is wrong; the next plan here counts with it"
    )
    (quick,) = sentences(PROMISED, 0.08)
    assert "took 80 ms each, outside the predicted 90 ms to 120 ms: the machine is less busy" in quick


def test_a_candidate_that_was_tried_and_faster_is_offered():
    others = (Candidate(summary="2 workers × 1 thread", step=0.13, trial=0.14),)
    (told,) = sentences(replace(PROMISED, others=others), 0.20)
    assert told.endswith(
        '. Tried before the run, "2 workers × 1 thread" took 140 ms; `meshwright run` again compares the two as the '
        "machine is now"
    )
    (told,) = sentences(replace(PROMISED, others=others), 0.13)
    assert "Tried before" not in told


def test_where_nothing_was_tried_the_plan_is_reconsidered_with_what_the_steps_took():
    """Of the first 20 steps, 19 wait 50 ms for others, one 1 s: the median is what is priced with."""
    asked = []

    def reconsider(measured):
        asked.append(measured)
        return ". Take the other"

    drift = Drift(replace(PROMISED, reconsider=reconsider))
    waits = [1.0, *[0.05] * 59]
    told = [drift.add(0.2, step, TimeBreakdown(forward=0.15, waiting=wait)) for step, wait in enumerate(waits, start=1)]
    assert [text for text in told if text] == [told[19]]
    assert told[19].endswith("the next plan here counts with it. Take the other")
    assert asked == [TimeBreakdown(forward=0.15, waiting=0.05)]


def test_from_the_files_beside_a_plan_the_better_one_is_named_with_its_gain_and_its_command(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "--size", "a b"])
    cluster, graph, goal = machine(), multilayer(layers=4, batch=32), Goal(pins=Pins(pipeline=2))
    plan = plan_outright(graph, cluster, goal)
    assert reconsideration(plan, tmp_path, Request()) is None
    write_cluster(cluster, tmp_path / "cluster.toml")
    write_graph(graph, tmp_path / "graph.json")
    write_toml(Goal(), tmp_path / "goal.toml")
    reconsider = reconsideration(plan, tmp_path, Request(pins=Pins(pipeline=2)))
    slow = replace(plan.prediction.time, communication=300 * plan.prediction.time.communication)
    said = reconsider(slow)
    offer = better_plan(plan, graph, cluster, goal, slow)
    assert f'"{offer.summary}" is expected to take' in said
    assert f"{1 - offer.step / slow.step:.0%} less: `meshwright run --set " in said
    assert said.endswith("train.py --size 'a b'`, without the pinned pipeline=2")
    best = choose(graph, cluster, Goal(), shortlist(graph, cluster, Goal()))
    stays = reconsideration(best, tmp_path, Request())
    assert "no tenth lower: this one stays the best" in stays(best.prediction.time)
