"""The calibration's fit: finds what is there, is not bent by what stalls, and stays where nothing is known."""

from collections.abc import Callable
from math import exp, log
from pathlib import Path

import numpy as np
import pytest

from calibration_fit import Problem, fit, newton_move, read_priors
from calibration_points import Point
from calibration_stalls import Waits, fit_stalls
from meshwright.cost.accelerator import Calibration, Messages

PRIORS = Path(__file__).resolve().parents[2] / "benchmarks" / "calibration_priors.toml"


def _point(measured: float, predict: Callable[[Calibration], float], *, source: str = "made up") -> Point:
    return Point(source=source, model="m", size=8, framework="nanotron", device="d", weight=0.1, measured=measured,
                 predict=predict)  # fmt: skip


def _problem(points: list[Point]) -> Problem:
    return Problem(points, read_priors(PRIORS), {"kernels": {"other_spread": 1.2}, "traffic": {"captured": 1.0}})


def _value(problem: Problem, logs: np.ndarray, path: str) -> float:
    return exp(logs[[".".join(prior.path) for prior in problem.priors].index(path)])


def _host(scale: float) -> Callable[[Calibration], float]:
    return lambda fitted: scale * fitted.frameworks["nanotron"].host


def test_a_parameter_is_found_and_others_stay() -> None:
    """30 runs that take 1 to 30 hosts' times at 7 ms each: the host's time is 7 ms; kernels are as they were."""
    problem = _problem([_point(count * 7e-3, _host(count)) for count in range(1, 31)])
    logs = fit(problem, problem.start, rounds=12, report=lambda _: None)
    assert _value(problem, logs, "frameworks.nanotron.host") == pytest.approx(7e-3, rel=0.02)
    assert _value(problem, logs, "kernels.half") == pytest.approx(0.95, rel=1e-6)


def test_runs_that_stalled_bend_nothing() -> None:
    """A third of the runs ten times slower moves the host's time by less than 3 %."""
    points = [_point(count * 7e-3 * (10 if count % 3 == 0 else 1), _host(count)) for count in range(1, 31)]
    problem = _problem(points)
    near = problem.begin({"frameworks": {"nanotron": {"host": 6e-3}}})
    logs = fit(problem, near, rounds=12, report=lambda _: None)
    assert _value(problem, logs, "frameworks.nanotron.host") == pytest.approx(7e-3, rel=0.03)


def test_points_that_are_left_out_pull_nothing() -> None:
    """Without the second source, which says 20 ms, the step goes to the first one's 7 ms."""
    points = [_point(7e-3, _host(1), source="a")] * 10 + [_point(20e-3, _host(1), source="b")] * 10
    problem = _problem(points)
    start = problem.begin({"frameworks": {"nanotron": {"host": 7.2e-3}}})
    errors = problem.errors(start)
    kept = np.array([point.source == "a" for point in points])
    move = newton_move(problem, start, errors, problem.jacobian(start, errors), kept=kept)
    assert _value(problem, start + move, "frameworks.nanotron.host") == pytest.approx(7e-3, rel=0.02)


def test_the_document_is_a_calibration_with_an_unknown_framework() -> None:
    """Its habits are the geometric means of the known ones'."""
    problem = _problem([])
    document = problem.document(problem.start)
    hosts = [habits["host"] for name, habits in document["frameworks"].items() if name != "other"]
    assert document["frameworks"]["other"]["host"] == pytest.approx(
        exp(np.mean([log(host) for host in hosts])), rel=1e-3
    )
    assert problem.calibration(problem.start).kernels.half == pytest.approx(0.95)


def test_every_prior_says_where_it_is_from() -> None:
    """A source for each, a positive value and weight."""
    assert all(prior.source and prior.value > 0 and prior.weight > 0 for prior in read_priors(PRIORS))


def _waits(*runs: tuple[int, bool]) -> Waits:
    """Runs on so many hosts that take 1 s, or 3 s where they waited; a stall is 2 s."""
    messages = tuple(
        Messages(tp=1, pp=2, ranks=1, sharded=True, examples=1, micro_batches=1, parameters=1e9, domain=8,
                 num_hosts=hosts) for hosts, _ in runs
    )  # fmt: skip
    measured = np.array([3.0 if waited else 1.0 for _, waited in runs])
    rows = np.arange(len(runs))
    return Waits(rows=rows, messages=messages, smooth=np.ones(len(runs)), stall=np.full(len(runs), 2.0),
                 measured=measured)  # fmt: skip


def test_rules_of_what_stalls_are_found_in_the_runs_that_may_be_looked_at() -> None:
    """Ten of ten on 64 hosts waited, none on 32: the limit is 64; without those ten there is no rule."""
    seen = _waits(*[(64, True)] * 10, *[(32, False)] * 10)
    assert fit_stalls(seen) == {"hosts": 64}
    assert fit_stalls(seen, kept=np.arange(20) >= 10) == {}


def test_a_rule_that_would_often_be_wrong_is_not_made() -> None:
    """Half of the runs on 64 hosts waited: saying so of all costs 2 for each that did not and saves two thirds."""
    assert fit_stalls(_waits(*[(64, True), (64, False)] * 10)) == {}
