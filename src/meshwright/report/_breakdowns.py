"""The figures that take a sum apart: a step's time, and a worker's memory."""

from collections.abc import Sequence
from dataclasses import fields
from html import escape
from typing import Any

from meshwright.cost import MemoryBreakdown, TimeBreakdown
from meshwright.report._figure import Figure
from meshwright.units import GIB, KIB, MIB, Bytes, format_bytes, format_seconds

LONGEST_LABEL = 18


def time_figure(bars: Sequence[tuple[tuple[str, ...], TimeBreakdown]], *, caption: str) -> Figure:
    """Where a step's time goes: a stacked bar for each breakdown under its label's words, the first one on top."""
    labels = [_axis_label(*label) for label, _ in bars]
    items = [item.name for item in fields(TimeBreakdown) if any(getattr(time, item.name) > 0 for _, time in bars)]
    traces = tuple(
        {
            "type": "bar",
            "orientation": "h",
            "name": item,
            "y": labels,
            "x": [getattr(time, item) * 1e3 for _, time in bars],
            "marker": {"color": f"--{item}", "line": {"width": 1, "color": "--card"}},
            "text": [format_seconds(getattr(time, item)) for _, time in bars],
            "textposition": "inside",
            "textangle": 0,
            "insidetextanchor": "middle",
            "textfont": {"color": "--on-fill"},
            "hovertemplate": f"{item}: %{{text}}<extra></extra>",
        }
        for item in items
    )
    return Figure(
        key="time",
        title="Where a step’s time goes",
        caption=caption,
        traces=traces,
        layout={
            "barmode": "stack",
            "bargap": 0.35,
            "uniformtext": {"mode": "hide", "minsize": 10},
            "xaxis": {"title": {"text": "milliseconds"}, "rangemode": "tozero"},
            "yaxis": {"autorange": "reversed", "automargin": True, "showgrid": False},
        },
        columns=("", *items, "step"),
        rows=tuple(
            (" ".join(label), *(format_seconds(getattr(time, item)) for item in items), format_seconds(time.step))
            for label, time in bars
        ),
        height=140 + 62 * len(bars),
    )


def memory_figure(predicted: MemoryBreakdown, *, measured: Bytes, limit: Bytes, caption: str) -> Figure:
    """The fullest worker's peak memory, item upon item, beside what was measured and what it may use."""
    items = [(item.name, getattr(predicted, item.name)) for item in fields(MemoryBreakdown)]
    items = [(name, size) for name, size in items if size > 0]
    rows = [*items, ("predicted peak", predicted.peak), ("measured peak", measured)]
    factor, unit = _binary_scale(max(predicted.peak, measured))
    waterfall = {
        "type": "waterfall",
        "orientation": "h",
        "y": [name for name, _ in items] + ["predicted peak"],
        "x": [size / factor for _, size in items] + [predicted.peak / factor],
        "measure": ["relative"] * len(items) + ["total"],
        "text": [format_bytes(size) for _, size in rows[:-1]],
        "textposition": "outside",
        "cliponaxis": False,
        "increasing": {"marker": {"color": "--memory"}},
        "totals": {"marker": {"color": "--predicted"}},
        "connector": {"line": {"color": "--line", "width": 1}},
        "hovertemplate": "%{y}: %{text}<extra></extra>",
    }
    bar = {
        "type": "bar",
        "orientation": "h",
        "y": ["measured peak"],
        "x": [measured / factor],
        "text": [format_bytes(measured)],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": "--measured"},
        "hovertemplate": "%{y}: %{text}<extra></extra>",
    }
    top = 1.22 * max(predicted.peak, measured) / factor
    return Figure(
        key="memory",
        title="Memory of the fullest worker",
        caption=caption,
        traces=(waterfall, bar) if measured > 0 else (waterfall,),
        layout={
            "showlegend": False,
            "bargap": 0.3,
            "xaxis": {"title": {"text": unit}, "range": [0, top]},
            "yaxis": {"autorange": "reversed", "automargin": True, "showgrid": False},
            **_limit_line(limit / factor, top),
        },
        columns=("item", "size"),
        rows=tuple((name, format_bytes(size)) for name, size in rows if size > 0),
        height=110 + 40 * len(rows),
    )


def memory_bars(bars: Sequence[tuple[str, MemoryBreakdown, Bytes]]) -> Figure:
    """Several runs' memory: a stacked bar of what was predicted and a plain one of what was measured, for each."""
    items = [item.name for item in fields(MemoryBreakdown) if any(getattr(one, item.name) > 0 for _, one, _ in bars)]
    factor, unit = _binary_scale(max(max(one.peak, measured) for _, one, measured in bars))
    labels = [_axis_label(name, side) for name, _, _ in bars for side in ("predicted", "measured")]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": item,
            "y": labels,
            "x": [value for _, one, _ in bars for value in (getattr(one, item) / factor, None)],
            "marker": {"color": f"--series-{index % 8}", "line": {"width": 1, "color": "--card"}},
        }
        for index, item in enumerate(items)
    ]
    traces.append(
        {
            "type": "bar",
            "orientation": "h",
            "name": "measured peak",
            "y": labels,
            "x": [value for _, _, measured in bars for value in (None, measured / factor)],
            "marker": {"color": "--measured"},
        }
    )
    return Figure(
        key="memory",
        title="Memory of the fullest worker",
        caption=". ".join(f"{name}: {format_bytes(one.peak)} predicted" for name, one, _ in bars) + ".",
        traces=tuple(traces),
        layout={
            "barmode": "stack",
            "bargap": 0.35,
            "xaxis": {"title": {"text": unit}, "rangemode": "tozero"},
            "yaxis": {"autorange": "reversed", "automargin": True, "showgrid": False},
        },
        columns=("", *items, "predicted peak", "measured peak"),
        rows=tuple(
            (
                name,
                *(format_bytes(getattr(one, item)) for item in items),
                format_bytes(one.peak),
                format_bytes(measured),
            )
            for name, one, measured in bars
        ),
        height=240 + 62 * len(bars) * 2,
    )


def _axis_label(*words: str) -> str:
    """A bar's label, a line per word; of a long one its end, which is where names of runs differ."""
    return "<br>".join(escape(word if len(word) <= LONGEST_LABEL else "…" + word[-LONGEST_LABEL:]) for word in words)


def _limit_line(limit: float, top: float) -> dict[str, Any]:
    if not 0 < limit <= top:
        return {}
    line = {"color": "--bad", "width": 2, "dash": "dot"}
    return {"shapes": [{"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": limit, "x1": limit, "line": line}]}


def _binary_scale(size: Bytes) -> tuple[int, str]:
    return next(((factor, unit) for factor, unit in ((GIB, "GiB"), (MIB, "MiB")) if size >= factor), (KIB, "KiB"))
