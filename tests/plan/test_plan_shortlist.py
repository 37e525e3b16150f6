"""The shortlist against brute force, and what decides between precisions."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import planning_builders as build
from meshwright.cost import predict
from meshwright.plan import Goal, Pins, shortlist
from meshwright.plan._priced import family
from meshwright.plan._shortlist import TRIED, tried_value
from meshwright.plan._space import strategies
from meshwright.units import MIB


@settings(max_examples=25, deadline=None)
@given(
    layers=st.integers(1, 6),
    batch=st.integers(1, 64),
    latency=st.floats(1e-6, 1e-2),
    bandwidth=st.floats(1e8, 1e11),
    memory=st.integers(350, 2000),
)
def test_the_first_is_the_best_of_brute_force(
    layers: int, batch: int, latency: float, bandwidth: float, memory: int
) -> None:
    graph = build.multilayer(layers=layers, batch=batch)
    cluster = build.machine(build.processor(memory=memory * MIB), latency=latency, bandwidth=bandwidth)
    goal = Goal(pins=Pins(matrix_library="default", allocator="default", pipeline=1))
    found = shortlist(graph, cluster, goal)
    steps = []
    for strategy in strategies(graph, cluster, goal, shares=lambda workers: (1,) * len(workers)):
        prediction = predict(graph, cluster, strategy)
        if prediction.memory.peak * strategy.num_workers <= memory * MIB:
            steps.append(prediction.time.step)
    assert found.candidates[0].prediction.time.step == pytest.approx(min(steps))


def test_every_family_near_the_best_is_tried_and_the_rest_is_told() -> None:
    """2 threads, 2 workers and 1 thread take 10.5, 11.9 and 18.9 ms; 1.6 times the best is 16.8 ms."""
    found = shortlist(build.multilayer(layers=4, batch=64), build.machine(), Goal(pins=Pins(pipeline=1)))
    assert len(found.candidates) == 6
    assert {family(item.strategy) for item in found.candidates} == {(1, 2), (2, 1)}
    assert [family(item.strategy) for item in found.others] == [(1, 1)]
    steps = [item.prediction.time.step for item in found.candidates]
    assert steps == sorted(steps)


def test_candidates_differ_in_something_that_a_trial_can_tell() -> None:
    found = shortlist(build.multilayer(layers=4, batch=64), build.machine(), Goal(pins=Pins(pipeline=1)))
    keys = {(family(item.strategy), *(tried_value(item.strategy, name) for name in TRIED)) for item in found.candidates}
    assert len(keys) == len(found.candidates) == 6


def test_the_family_of_the_script_as_written_is_tried_however_slow_its_rates_say() -> None:
    """Rates with two threads a hundredth of what they should be, as beside other processes."""
    device = build.processor()
    slow = tuple(replace(row, rate=row.rate / 100) if row.threads == 2 else row for row in device.matrix_rates)
    found = shortlist(build.multilayer(batch=2000), build.machine(replace(device, matrix_rates=slow)), Goal())
    assert family(found.candidates[-1].strategy) == (1, 2)
    assert found.candidates[-1].prediction.time.step > 10 * found.candidates[0].prediction.time.step


def test_the_script_as_written_is_tried_when_it_is_near() -> None:
    pins = Pins(matrix_library="default", allocator="default")
    found = shortlist(build.multilayer(), build.machine(), Goal(pins=pins))
    plain = [item for item in found.candidates if item.strategy.summary == "1 worker × 2 threads"]
    assert len(plain) == 1


def test_a_goal_of_one_candidate_gives_the_best() -> None:
    graph, cluster = build.multilayer(), build.machine()
    few, many = (shortlist(graph, cluster, Goal(), count=count) for count in (1, 6))
    assert few.candidates == many.candidates[:1]


def test_slow_bfloat16_is_not_chosen_though_it_is_allowed() -> None:
    """Measured at 10 GFLOP/s where float32 has 100."""
    cluster = build.machine(build.processor(bfloat16=10e9))
    found = shortlist(build.multilayer(), cluster, Goal(allow=("precision",)))
    assert found.candidates[0].strategy.precision.compute == "as_written"
    assert all(item.strategy.precision.compute == "as_written" for item in found.candidates)


def test_fast_bfloat16_is_chosen_where_it_is_allowed_and_only_there() -> None:
    """Measured at 1 TFLOP/s where float32 has 200 GFLOP/s at best."""
    cluster = build.machine(build.processor(bfloat16=1e12))
    graph = build.multilayer(batch=1000)
    allowed = shortlist(graph, cluster, Goal(allow=("precision",)))
    assert allowed.candidates[0].strategy.precision.compute == "bfloat16"
    forbidden = shortlist(graph, cluster, Goal())
    assert {item.strategy.precision.compute for item in forbidden.candidates} == {"as_written"}


def test_a_cpu_host_shares_its_memory_among_its_workers() -> None:
    """500 MB: one worker of 244 MB fits, two of as much each have 250 MB."""
    found = shortlist(build.multilayer(), build.machine(), Goal(memory_limit=500_000_000))
    limits = {item.strategy.num_workers: item.memory_limit for item in found.candidates}
    assert limits == {1: 500_000_000, 2: 250_000_000}
