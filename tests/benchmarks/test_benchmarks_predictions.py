"""Predictions beside runs: methods with more workers than cores can be planned; checks count as they say."""

from dataclasses import replace

import pytest

from crowded_machine import taking_turns
from meshwright.documents import from_mapping
from meshwright.errors import PlanError
from meshwright.plan import Goal, Pins, plan_outright
from planning_builders import machine, multilayer
from predictions import METHODS, Row, checks_of, idle_share, workers_of

GRAPH = multilayer(layers=8, batch=16)


@pytest.mark.parametrize("method", ["data-4", "parameters-4", "pipeline-4", "gpipe-4", "pipeline-2-data-2"])
def test_more_workers_than_cores_are_planned_where_each_has_its_part(method):
    goal = Goal(pins=from_mapping(Pins, dict(pin.split("=") for pin in METHODS[method]), where="--set"))
    with pytest.raises(PlanError):
        plan_outright(GRAPH, machine(), goal)
    plan = plan_outright(GRAPH, taking_turns(machine(), workers_of(method)), goal)
    assert plan.strategy.num_workers == workers_of(method) == 4


def test_twice_as_many_workers_as_cores_have_half_of_every_rate():
    before, after = machine(), taking_turns(machine(), 4)
    known = [row.rate for row in before.hosts[0].device.matrix_rates if row.threads == 1]
    assert [row.rate for row in after.hosts[0].device.matrix_rates] == pytest.approx([rate / 2 for rate in known])
    assert after.links[0].collectives[0].latency == 2 * before.links[0].collectives[0].latency
    assert (after.hosts[0].device.cores, after.identity) == (4, "")


def row(predicted, memory):
    return Row(
        method="one", plan="", workers=1, cores=2, predicted=predicted, trial=0.0, measured=1.0, low=0.0, high=0.0,
        predicted_memory=memory, measured_memory=100,
    )  # fmt: skip


def test_errors_are_medians_over_methods_either_way():
    rows = [row(0.9, 90), row(1.2, 150), row(5.0, 100)]
    announced, times, memory = checks_of([rows[0], replace(rows[1], trial=1.05), rows[2]])
    assert (announced.value, times.value, memory.value) == pytest.approx((0.1, 0.2, 0.1))
    assert announced.holds
    assert not times.holds
    assert memory.holds


def test_a_worker_that_waits_leaves_its_core_to_others() -> None:
    """GPipe of 4 stages and 4 micro-batches idles 3/7: 2 cores for 4 · 4/7 workers, 7/8 of a core each."""
    assert idle_share("gpipe-4") == pytest.approx(3 / 7)
    assert idle_share("tensor-4") == 0.0
    before, after = machine(), taking_turns(machine(), 4, idle=idle_share("gpipe-4"))
    rates = [[row.rate for row in one.hosts[-1].device.matrix_rates if row.threads == 1] for one in (before, after)]
    assert rates[1] == pytest.approx([7 / 8 * rate for rate in rates[0]])
