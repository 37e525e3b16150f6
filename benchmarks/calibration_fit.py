r"""The fit: robust least squares on the logarithms of times and parameters, held by what was known before.

Minimises $\sum_i w_i \rho(\ln t_i - \ln m_i) + \sum_k (v_k (x_k - x_k^0))^2$ over logarithms $x$ of the parameters,
with Cauchy's $\rho$, so that a run that stalled for its own reasons bends nothing. Gauss-Newton with reweighting; a
parameter of one framework or device is varied on its own points only.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from calibration_points import Point
from meshwright.cost.accelerator import Calibration

# Relative error from which on a point loses influence, and the step of a numerical derivative in the logarithm.
_SPREAD = 0.12
_STEP = 1e-3
_LONGEST_MOVE = 0.5
_ADAPTER = TypeAdapter(Calibration)

# The framework whose runs stall.
STALLING = "nanotron"

Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prior:
    """What is known of a parameter beforehand: TOML path, value, and weight of its logarithm."""

    path: tuple[str, ...]
    value: float
    weight: float
    source: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Points, and the parameters to fit to them.

    Args:
        points: measurements.
        priors: parameters.
        fixed: everything else of the calibration's document.
    """

    points: Sequence[Point]
    priors: Sequence[Prior]
    fixed: Mapping[str, Any]

    @property
    def start(self) -> Vector:
        """Logarithms of the priors' values."""
        return np.array([log(prior.value) for prior in self.priors])

    def begin(self, document: Mapping[str, Any]) -> Vector:
        """Logarithms of an earlier fit's values, of the priors' where it has none: a start that is nearer."""
        return np.array([log(_found(document, prior.path) or prior.value) for prior in self.priors])

    def with_stalls(self, rules: Mapping[str, float]) -> "Problem":
        """With other rules of which runs stall."""
        fixed = deepcopy(dict(self.fixed))
        fixed.setdefault("frameworks", {}).setdefault(STALLING, {})["stalls"] = dict(rules)
        return Problem(self.points, self.priors, fixed)

    def document(self, logs: Vector) -> dict[str, Any]:
        """The calibration's document at these parameters."""
        document = deepcopy(dict(self.fixed))
        for prior, value in zip(self.priors, logs, strict=True):
            place = document
            for key in prior.path[:-1]:
                place = place.setdefault(key, {})
            place[prior.path[-1]] = float(f"{exp(value):.4g}") if prior.weight else prior.value
        document["frameworks"]["other"] = _other(document["frameworks"])
        return document

    def calibration(self, logs: Vector) -> Calibration:
        """The calibration at these parameters, not rounded."""
        document = self.document(logs)
        for prior, value in zip(self.priors, logs, strict=True):
            place = document
            for key in prior.path[:-1]:
                place = place[key]
            place[prior.path[-1]] = exp(value)
        return _ADAPTER.validate_python(document)

    def errors(self, logs: Vector, rows: Sequence[int] | None = None) -> Vector:
        """Logarithms of predicted over measured, of all points or of some."""
        fitted = self.calibration(logs)
        chosen = range(len(self.points)) if rows is None else rows
        return np.array([log(self.points[row].predict(fitted) / self.points[row].measured) for row in chosen])

    def jacobian(self, logs: Vector, errors: Vector) -> Vector:
        """Derivative of every error by every parameter."""
        matrix = np.zeros((len(self.points), len(self.priors)))
        for column, prior in enumerate(self.priors):
            rows = [row for row, point in enumerate(self.points) if _depends(point, prior.path)]
            if not rows:
                continue
            moved = logs.copy()
            moved[column] += _STEP
            matrix[rows, column] = (self.errors(moved, rows) - errors[rows]) / _STEP
        return matrix


def fit(problem: Problem, start: Vector, *, rounds: int, report: Callable[[str], None] = print) -> Vector:
    """Parameters that fit best, by Gauss-Newton with halved steps."""
    logs = start.copy()
    errors = problem.errors(logs)
    cost = _cost(problem, errors, logs)
    for count in range(rounds):
        jacobian = problem.jacobian(logs, errors)
        move = newton_move(problem, logs, errors, jacobian)
        length = 1.0
        while length > 1e-3:
            tried = logs + length * move
            new_errors = problem.errors(tried)
            new_cost = _cost(problem, new_errors, tried)
            if new_cost < cost:
                break
            length /= 2
        else:
            return logs
        report(f"round {count + 1}: {cost:.4f} -> {new_cost:.4f}")
        done = cost - new_cost < 1e-3 * cost
        logs, errors, cost = tried, new_errors, new_cost
        if done:
            break
    return logs


def newton_move(
    problem: Problem, logs: Vector, errors: Vector, jacobian: Vector, *, kept: NDArray[np.bool_] | None = None
) -> Vector:
    """One step towards the minimum, without the points that are not kept."""
    weights = np.array([point.weight for point in problem.points]) / (1 + (errors / _SPREAD) ** 2)
    if kept is not None:
        weights = weights * kept
    held = np.array([prior.weight**2 for prior in problem.priors])
    normal = jacobian.T @ (jacobian * weights[:, None]) / _SPREAD**2 + np.diag(held)
    gradient = jacobian.T @ (errors * weights) / _SPREAD**2 + held * (logs - problem.start)
    move = -np.linalg.solve(normal + 1e-9 * np.eye(len(logs)), gradient)
    return np.clip(move, -_LONGEST_MOVE, _LONGEST_MOVE)


def read_priors(path: Path) -> tuple[Prior, ...]:
    """The parameters and what is known of them."""
    with path.open("rb") as file:
        return tuple(_priors((), tomllib.load(file)))


def _priors(path: tuple[str, ...], value: Mapping[str, Any]) -> list[Prior]:
    if set(value) == {"value", "weight", "source"}:
        return [Prior(path=path, **value)]
    return [prior for key, inside in value.items() for prior in _priors((*path, key), inside)]


def _found(document: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    place: Any = document
    for key in path:
        place = place.get(key) if isinstance(place, Mapping) else None
    return place


def _cost(problem: Problem, errors: Vector, logs: Vector) -> float:
    weights = np.array([point.weight for point in problem.points])
    held = np.array([prior.weight for prior in problem.priors])
    return float((weights * np.log1p((errors / _SPREAD) ** 2)).sum() + ((held * (logs - problem.start)) ** 2).sum())


def _depends(point: Point, path: tuple[str, ...]) -> bool:
    if path[0] == "frameworks":
        return point.framework == path[1]
    if path[0] == "devices":
        return point.device == path[1]
    return not (path[0] == "network" and point.size == 1) and not (path[0] == "traffic" and not point.framework)


def _other(frameworks: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """A framework that is not known: the geometric mean of the others that share a key with all."""
    known = [habits for name, habits in frameworks.items() if name != "other"]
    shared = [key for key in known[0] if all(key in habits for habits in known)]
    return {key: float(f"{np.exp(np.mean([log(habits[key]) for habits in known])):.4g}") for key in shared}
