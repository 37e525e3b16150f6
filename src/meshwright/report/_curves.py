"""The figures over the steps of a run: loss, and step time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite
from typing import Any

from meshwright.report._figure import Figure
from meshwright.units import format_seconds

MOST_POINTS = 1500


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """A line over the steps: its name, its points, and how it is drawn.

    Args:
        name: as the legend shows it.
        points: step and value.
        color: CSS variable.
        width: of the line (px).
    """

    name: str
    points: tuple[tuple[int, float], ...]
    color: str
    width: float = 2


def loss_figure(series: Sequence[Series], *, caption: str) -> Figure:
    """Loss over the steps, one line each."""
    return Figure(
        key="loss",
        title="Loss",
        caption=caption,
        traces=tuple(_line(one) for one in series),
        layout={"xaxis": {"title": {"text": "step"}}, "yaxis": {"title": {"text": "global mean loss"}}},
        columns=("step", *(one.name for one in series)),
        rows=_rows_at_steps(series),
    )


def step_figure(
    series: Sequence[Series], *, interval: tuple[float, float] | None, predicted: float, caption: str
) -> Figure:
    """Step time over the run as points, the predicted step as a line and its interval as a band."""
    values = sorted(value for one in series for _, value in one.points)
    typical = values[int(0.98 * (len(values) - 1))] if values else 0.0
    top = 1.25 * max(typical, interval[1] if interval else 0.0, predicted)
    traces = [
        {
            **_line(Series(name=one.name, points=tuple((step, value * 1e3) for step, value in one.points), color="")),
            "mode": "markers",
            "marker": {"color": one.color, "size": 5, "opacity": 0.75},
            "hovertemplate": "step %{x}: %{y:.4g} ms<extra></extra>",
        }
        for one in series
    ]
    shapes = []
    if interval and interval[1] > 0:
        shapes.append(_band(interval[0] * 1e3, interval[1] * 1e3))
    if predicted > 0:
        span = [
            min(step for one in series for step, _ in one.points),
            max(step for one in series for step, _ in one.points),
        ]
        line = {"color": "--predicted", "width": 2, "dash": "dash"}
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "predicted",
                "x": span,
                "y": [predicted * 1e3] * 2,
                "line": line,
            }
        )
    return Figure(
        key="steps",
        title="Step time over the run",
        caption=caption,
        traces=tuple(traces),
        layout={
            "xaxis": {"title": {"text": "step"}},
            "yaxis": {"title": {"text": "milliseconds"}, "range": [0, top * 1e3]},
            "shapes": shapes,
        },
        columns=("step", *(one.name for one in series)),
        rows=_rows_at_steps(series, write=format_seconds),
    )


def _line(series: Series) -> dict[str, Any]:
    points = thin(series.points)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": escape(series.name),
        "x": [step for step, _ in points],
        "y": [value if isfinite(value) else None for _, value in points],
        "line": {"color": series.color, "width": series.width} if series.color else {},
        "hovertemplate": f"step %{{x}}: %{{y:.5g}}<extra>{escape(series.name)}</extra>",
    }


def thin(points: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    """Evenly chosen points, so that a page of a long run stays light; the first and the last are always there."""
    if len(points) <= MOST_POINTS:
        return points
    return [points[round(index * (len(points) - 1) / (MOST_POINTS - 1))] for index in range(MOST_POINTS)]


def _rows_at_steps(
    series: Sequence[Series], write: Callable[[float], str] = "{:.5g}".format
) -> tuple[tuple[str, ...], ...]:
    """About twelve steps of the lines, as a table."""
    values = [dict(one.points) for one in series]
    steps = sorted({step for one in values for step in one})
    chosen = sorted({steps[round(index * (len(steps) - 1) / 11)] for index in range(12)}) if steps else []
    return tuple((str(step), *(write(one[step]) if step in one else "–" for one in values)) for step in chosen)


def _band(low: float, high: float) -> dict[str, Any]:
    return {
        "type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": low, "y1": high,
        "fillcolor": "--band", "line": {"width": 0}, "layer": "below",
    }  # fmt: skip
