"""Each framework's 90 % interval, from errors on what was left out of the fit, and how often it holds.

The width is what nine in ten errors on models that were left out stay within. A framework of few models says little
about others: sources that were left out whole count as one model more, and alone where a framework is not known. How
often an interval holds is counted by widths that did not see the model counted; the fit has not seen it either.
"""

from dataclasses import dataclass
from math import exp, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration_fit import Problem, Vector
from calibration_points import Point
from meshwright.cost.accelerator import Calibration, StepTime, step_time

# A stall that lasts this much of the smooth step is no matter of the interval's width.
_STALLED = 1.5


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs with their errors, stalled ones included.

    Args:
        models: by run.
        sources: by run.
        frameworks: by run.
        smooth: whether it neither stalled nor was foretold to.
        low: of the interval over the prediction, but for its width.
        high: likewise.
        devices: by run.
        spread: by how much intervals are wider on devices that nothing was fitted on.
        by_model: logarithms of predicted over measured, its model left out.
        by_source: the same, its source left out.
    """

    models: NDArray[np.str_]
    sources: NDArray[np.str_]
    frameworks: NDArray[np.str_]
    smooth: NDArray[np.bool_]
    low: Vector
    high: Vector
    devices: NDArray[np.str_]
    spread: float
    by_model: Vector
    by_source: Vector

    def width(self, framework: str, *, but: str = "") -> float:
        """Logarithm by which an interval reaches to both sides.

        Args:
            but: a model that nothing is to be known of, nor of the rest of its source where that is left out whole.
        """
        seen = self.smooth & (self.models != but)
        elsewhere = [
            _within(self.by_source[seen & (self.sources == one)])
            for one in np.unique(self.sources[seen])
            if not but.startswith(f"{one}: ")
        ]
        mine = seen & (self.frameworks == framework)
        models = len(np.unique(self.models[mine]))
        own = _within(self.by_model[mine]) if models else 0.0
        return (models * own + float(np.mean(elsewhere or [own]))) / (models + 1)

    def inside(self) -> NDArray[np.bool_]:
        """Whether each run is within an interval that did not see its model."""
        found = np.zeros(len(self.models), dtype=bool)
        for model in np.unique(self.models):
            for framework in np.unique(self.frameworks[self.models == model]):
                rows = (self.models == model) & (self.frameworks == framework)
                known = np.isin(self.devices[rows], self.devices[self.models != model])
                reach = np.exp(self.width(str(framework), but=str(model))) * np.where(known, 1.0, self.spread)
                ratio = np.exp(-self.by_model[rows])
                found[rows] = (ratio >= self.low[rows] / reach) & (ratio <= self.high[rows] * reach)
        return found


def runs_of(problem: Problem, logs: Vector, *, by_model: Vector, by_source: Vector) -> Runs:
    """The runs among a problem's points."""
    fitted = problem.calibration(logs)
    timed = [(row, point, step_time(point.setup, point.machine, fitted=fitted))
             for row, point in enumerate(problem.points)
             if point.setup is not None and point.machine is not None]  # fmt: skip
    habits = [fitted.frameworks[point.framework] for _, point, _ in timed]
    spread = fitted.kernels.other_spread
    wider = np.array([1.0 if point.device in fitted.devices else spread for _, point, _ in timed])
    rows = [row for row, _, _ in timed]
    steps = np.array([time.step for _, _, time in timed])
    return Runs(
        models=np.array([point.model for _, point, _ in timed]),
        sources=np.array([point.source for _, point, _ in timed]),
        frameworks=np.array([point.framework for _, point, _ in timed]),
        smooth=np.array([_is_smooth(point, time, fitted) for _, point, time in timed]),
        low=np.array([time.low for _, _, time in timed]) / steps * wider / [own.low for own in habits],
        high=np.array([time.high for _, _, time in timed]) / steps / wider / [own.high for own in habits],
        devices=np.array([point.device for _, point, _ in timed]),
        spread=spread,
        by_model=by_model[rows],
        by_source=by_source[rows],
    )


def with_intervals(document: dict[str, Any], runs: Runs) -> dict[str, Any]:
    """The calibration's document with each framework's interval."""
    for name, habits in document["frameworks"].items():
        width = runs.width(name)
        habits["low"], habits["high"] = round(exp(-width), 3), round(exp(width), 3)
    return document


def shares_inside(runs: Runs) -> dict[str, float]:
    """The share inside intervals made without their model: of every source's runs, `sources` in the mean, `runs`."""
    inside = runs.inside()
    found = {str(one): float(inside[runs.sources == one].mean()) for one in np.unique(runs.sources)}
    return found | {"sources": float(np.mean(list(found.values()))), "runs": float(inside.mean())}


def _within(errors: Vector) -> float:
    """What nine in ten stay within."""
    return float(np.quantile(np.abs(errors), 0.9))


def _is_smooth(point: Point, time: StepTime, fitted: Calibration) -> bool:
    stalls = fitted.frameworks[point.framework].stall > 0
    return not time.stall and not (stalls and log(point.measured / time.step) > log(_STALLED))
