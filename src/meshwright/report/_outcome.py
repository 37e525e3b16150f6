"""Predicted beside measured, and the error between them."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

from meshwright.cost import Measurement, Prediction, TimeBreakdown
from meshwright.units import format_bytes, format_seconds

NEGLIGIBLE_SHARE = 0.001


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A quantity that was predicted and then measured.

    Args:
        name: what it is.
        predicted: value (s or B).
        measured: value (s or B); 0 where it was not measured.
        unit: `s` or `B`.
        level: 0 for a sum, 1 for an item of the sum above it.
    """

    name: str
    predicted: float
    measured: float
    unit: str = "s"
    level: int = 0

    @property
    def error(self) -> float | None:
        """How far the prediction is off, as a share of what was measured; None where either is not there."""
        return self.predicted / self.measured - 1 if self.measured > 0 and self.predicted > 0 else None

    @property
    def texts(self) -> tuple[str, str, str]:
        """Predicted, measured and error, as a person reads them."""
        write = format_bytes if self.unit == "B" else format_seconds
        return (
            write(self.predicted) if self.predicted else "–",
            write(self.measured) if self.measured else "–",
            format_error(self.error),
        )


def outcomes(prediction: Prediction, measurement: Measurement) -> tuple[Outcome, ...]:
    """Step time, where it goes, and peak memory; items that are nothing on both sides are left out."""
    return (
        Outcome(name="step time", predicted=prediction.time.step, measured=measurement.step),
        *_items(prediction.time, measurement.time),
        Outcome(name="peak memory", predicted=prediction.memory.peak, measured=measurement.memory, unit="B"),
    )


def format_error(error: float | None) -> str:
    """A share as signed percent: `0.031` → `+3.1 %`."""
    if error is None:
        return "–"
    percent = error * 100
    text = f"{percent:+.0f} %" if abs(percent) >= 100 else f"{percent:+.1f} %"
    return text.replace("-", "−")


def describe_error(error: float | None) -> str:
    """A prediction's error in words: `-0.031` → `3.1 % too low`."""
    if error is None:
        return "not comparable"
    percent = abs(error) * 100
    if percent < 0.05:
        return "exact"
    return f"{percent:.{0 if percent >= 100 else 1}f} % too {'high' if error > 0 else 'low'}"


def _items(predicted: TimeBreakdown, measured: TimeBreakdown) -> Iterator[Outcome]:
    floor = NEGLIGIBLE_SHARE * max(predicted.step, measured.step)
    for item in fields(TimeBreakdown):
        pair = getattr(predicted, item.name), getattr(measured, item.name)
        if max(pair) > floor:
            yield Outcome(name=item.name, predicted=pair[0], measured=pair[1], level=1)
