"""Once steps were seen, plans are priced again, and a better one is offered with what asks for it."""

from dataclasses import replace

import pytest

from meshwright.cost import TimeBreakdown
from meshwright.documents import from_mapping
from meshwright.plan import Goal, Pins, better_plan, choose, plan_outright, shortlist
from meshwright.plan._offer import Factors, factors_of
from planning_builders import machine, multilayer

GRAPH = multilayer(layers=4, batch=32)


def times(plan, *, computing, exchanging):
    """What steps took: the model's own price of a plan, its parts multiplied."""
    priced = plan.prediction.time
    exchanged = {"communication": priced.communication * exchanging, "waiting": priced.waiting * exchanging}
    names = ("forward", "backward", "recompute", "optimizer", "overhead")
    return TimeBreakdown(**exchanged, **{name: getattr(priced, name) * computing for name in names})


def test_computing_and_exchanging_err_apart():
    predicted = TimeBreakdown(forward=0.06, communication=0.03, waiting=0.01)
    factors = factors_of(predicted, TimeBreakdown(forward=0.12, communication=0.20))
    assert (factors.computing, factors.exchanging) == pytest.approx((2.0, 5.0))
    assert factors.step(TimeBreakdown(forward=0.1, communication=0.01)) == pytest.approx(0.25)


def test_where_exchanges_were_not_seen_apart_all_is_scaled_by_the_step():
    predicted = TimeBreakdown(forward=0.06, communication=0.04)
    assert factors_of(predicted, TimeBreakdown(forward=0.25)) == Factors(computing=2.5, exchanging=2.5)
    assert factors_of(TimeBreakdown(forward=0.5), TimeBreakdown(forward=0.5, waiting=0.5)).exchanging == 2.0


def test_a_split_that_exchanges_slower_than_predicted_gives_way_and_the_pins_lead_to_the_other():
    cluster = machine()
    goal = Goal(pins=Pins(pipeline=2), origins={"pipeline": "command line"})
    plan = plan_outright(GRAPH, cluster, goal)
    assert plan.strategy.mesh.pp == 2
    measured = times(plan, computing=1.0, exchanging=20.0)
    offer = better_plan(plan, GRAPH, cluster, goal, measured)
    assert offer is not None
    assert offer.unpinned == ("pipeline=2",)
    assert offer.step < 0.9 * measured.step
    asked = from_mapping(Pins, dict(pin.split("=") for pin in offer.pins), where="--set")
    found = shortlist(GRAPH, cluster, Goal(pins=asked)).candidates
    assert offer.summary in {item.strategy.summary for item in found}


def test_nothing_is_offered_where_the_plan_stays_the_best():
    """A busier machine slows all plans alike."""
    cluster, goal = machine(), Goal()
    plan = choose(GRAPH, cluster, goal, shortlist(GRAPH, cluster, goal))
    assert better_plan(plan, GRAPH, cluster, goal, times(plan, computing=2.0, exchanging=2.0)) is None


def test_what_lost_its_trial_is_not_offered():
    cluster = machine()
    goal = Goal(pins=Pins(pipeline=2))
    plan = plan_outright(GRAPH, cluster, goal)
    measured = times(plan, computing=1.0, exchanging=20.0)
    offer = better_plan(plan, GRAPH, cluster, goal, measured)
    tried = replace(plan.candidates[0], summary=offer.summary, trial=1.0)
    again = better_plan(replace(plan, candidates=(*plan.candidates, tried)), GRAPH, cluster, goal, measured)
    assert again is None or again.summary != offer.summary
