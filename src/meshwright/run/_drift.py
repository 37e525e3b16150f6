"""Notices when steps do not take what was predicted, or no longer take what they took; says what could be done."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from statistics import median

from meshwright.cost import TimeBreakdown
from meshwright.plan import Candidate, Plan
from meshwright.units import Seconds, format_seconds

WINDOW = 20
SHORTEST_WINDOW: Seconds = 2.0
SLOWER = 1.6
# The steps at the start of a run touch memory for the first time, and a machine is never as quiet as in a trial: what
# is this near the interval is not worth a sentence.
TOLERANCE = 1.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a plan says of the steps, and what could be done instead.

    Args:
        step: predicted (s).
        low: the step is faster than this in 5 % of cases (s).
        high: the step is slower than this in 5 % of cases (s).
        others: the candidates that fit and were tried, fastest first.
        reconsider: given the medians of what steps took, says what else would be better, or that nothing would; None
            where there is nothing to price.
    """

    step: Seconds
    low: Seconds
    high: Seconds
    others: tuple[Candidate, ...] = ()
    reconsider: Callable[[TimeBreakdown], str] | None = None


def forecast_of(plan: Plan, reconsider: Callable[[TimeBreakdown], str] | None = None) -> Forecast:
    """What a plan promises, beside what its trial found of the others."""
    others = [candidate for candidate in plan.candidates[1:] if candidate.fits and candidate.trial > 0]
    prediction = plan.prediction
    return Forecast(
        step=prediction.time.step,
        low=prediction.low,
        high=prediction.high,
        others=tuple(sorted(others, key=lambda candidate: candidate.trial)),
        reconsider=reconsider,
    )


class Drift:
    """Compares the median of some steps with the forecast at first, and with the first ones from then on.

    Args:
        forecast: of the plan; None where there is none.
    """

    def __init__(self, forecast: Forecast | None) -> None:
        self._forecast = forecast
        self._window: list[Seconds] = []
        self._times: list[TimeBreakdown] = []
        self._spent: Seconds = 0.0
        self._first = self._next = 1
        self._normal: Seconds = 0.0
        self._told = False

    def add(self, duration: Seconds, step: int, time: TimeBreakdown | None = None) -> str:
        """Takes a step; gives a sentence when the last ones are off or have drifted, else nothing.

        Args:
            duration: of the step (s).
            step: its number.
            time: where it went.
        """
        self._window.append(duration)
        if time is not None and not self._normal:
            self._times.append(time)
        self._spent += duration
        if len(self._window) < WINDOW or self._spent < SHORTEST_WINDOW:
            return ""
        self._first, self._next = self._next, step + 1
        now, self._window, self._spent = median(self._window), [], 0.0
        if not self._normal:
            self._normal = now
            times, self._times = self._times, []
            return self._off_forecast(now, step, times)
        if now < SLOWER * self._normal:
            self._told = False
            return ""
        return self._once(
            now,
            step,
            f"{now / self._normal:.1f} × the {format_seconds(self._normal)} they took at the start: "
            "the load of the machine has changed, or examples became longer; "
            "`meshwright run` plans anew for what there is now",
        )

    def _off_forecast(self, now: Seconds, step: int, times: Sequence[TimeBreakdown]) -> str:
        forecast = self._forecast
        if forecast is None or not forecast.step:
            return ""
        if forecast.low / TOLERANCE <= now <= forecast.high * TOLERANCE:
            return ""
        comparison = (
            f"outside the predicted {format_seconds(forecast.low)} to {format_seconds(forecast.high)}: "
            + (
                "the machine is busier than when the plan was made, or the prediction is wrong"
                if now > forecast.step
                else "the machine is less busy than when the plan was made, or the prediction is wrong"
            )
            + "; the next plan here counts with it"
        )
        better = _tried_better(forecast, now)
        if not better and forecast.reconsider is not None and times:
            better = forecast.reconsider(_medians(times))
        return self._once(now, step, comparison + better)

    def _once(self, now: Seconds, step: int, comparison: str) -> str:
        if self._told:
            return ""
        self._told = True
        return f"meshwright: steps {self._first} to {step} took {format_seconds(now)} each, {comparison}"


def _medians(times: Sequence[TimeBreakdown]) -> TimeBreakdown:
    return TimeBreakdown(
        **{item.name: median(getattr(time, item.name) for time in times) for item in fields(TimeBreakdown)}
    )


def _tried_better(forecast: Forecast, now: Seconds) -> str:
    """The candidate that its trial found faster than the steps are now."""
    best = next((candidate for candidate in forecast.others if candidate.trial < now), None)
    if best is None:
        return ""
    return (
        f'. Tried before the run, "{best.summary}" took {format_seconds(best.trial)}; '
        "`meshwright run` again compares the two as the machine is now"
    )
