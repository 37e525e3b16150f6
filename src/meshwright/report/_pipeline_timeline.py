"""The pipeline's time line: which worker computes which micro-batch when, predicted above measured."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

from meshwright.cost import StageEvent, StageTime, StepTrace, Strategy, Work, bubble, flowing_orders, orders, simulated
from meshwright.report._figure import Figure
from meshwright.units import Seconds, format_seconds

_COLORS: dict[Work, str] = {
    "forward": "--forward", "backward": "--backward", "input": "--backward", "weight": "--recompute",
}  # fmt: skip
_NAMES: dict[Work, str] = {
    "forward": "forward", "backward": "backward", "input": "backward of activations", "weight": "backward of weights",
}  # fmt: skip


def pipeline_figure(strategy: Strategy, stages: Sequence[StageTime], traces: Sequence[StepTrace]) -> Figure | None:
    """A row per worker of the first pipeline, predicted and measured; None where there is nothing to draw.

    Where the prediction has no stages, the schedule is drawn with the measured times of its pieces, and without
    transfers: what the measured line would be if nobody had to wait for a message.

    Args:
        strategy: of the plan.
        stages: what was predicted of each.
        traces: a step of every worker that wrote one; all of one step.
    """
    if strategy.pipeline is None:
        return None
    measured = _of_first_pipeline(traces)
    durations, transfers = _durations(stages) if stages else (_means(measured), ())
    if not durations:
        return None
    planned = _by_worker(simulated(_orders(strategy, measured), durations, transfers=transfers), strategy)
    measured = _by_worker(measured, strategy)
    label = "predicted" if stages else "schedule"
    bands = [(label, planned)] + ([("measured", measured)] if measured else [])
    return Figure(
        key="pipeline",
        title="The pipeline’s time line",
        caption=_caption(strategy, label, planned, measured),
        traces=tuple(_trace(work, bands) for work in _COLORS if any(_has(events, work) for _, events in bands)),
        layout={
            "barmode": "overlay",
            "bargap": 0.25,
            "xaxis": {"title": {"text": "milliseconds"}, "rangemode": "tozero"},
            "yaxis": {"autorange": "reversed", "automargin": True, "showgrid": False, "type": "category",
                      "categoryorder": "array", "categoryarray": _rows(bands)},
        },
        columns=("worker", "stages", "busy", "ends at", "waits"),
        rows=tuple(_row(name, rank, events) for name, events in bands for rank in _ranks(events)),
        height=150 + 34 * len(_rows(bands)),
    )  # fmt: skip


def _of_first_pipeline(traces: Sequence[StepTrace]) -> tuple[StageEvent, ...]:
    """The events of one pipeline's workers on one clock: of several that have the same stages, the first one's."""
    first: dict[int, StepTrace] = {}
    for trace in sorted(traces, key=lambda trace: trace.rank):
        if trace.stages:
            first.setdefault(trace.stages[0].rank, trace)
    shifted = [
        StageEvent(rank=rank, action=event.action, start=event.start + trace.began, end=event.end + trace.began)
        for rank, trace in first.items()
        for event in trace.stages
    ]
    begin = min((event.start for event in shifted), default=0.0)
    return tuple(
        StageEvent(rank=event.rank, action=event.action, start=event.start - begin, end=event.end - begin)
        for event in sorted(shifted, key=lambda event: (event.start, event.rank))
    )


def _by_worker(events: Sequence[StageEvent], strategy: Strategy) -> tuple[StageEvent, ...]:
    """Places along `pp`, the outermost axis, as the first pipeline's workers, which other tables count so, too."""
    each = strategy.mesh.num_workers // strategy.mesh.pp
    return tuple(replace(event, rank=event.rank * each) for event in events)


def _orders(strategy: Strategy, measured: Sequence[StageEvent]) -> tuple[Any, ...]:
    assert strategy.pipeline is not None
    count = 1 + max((event.action.micro_batch for event in measured), default=strategy.batch.accumulation - 1)
    if strategy.pipeline.schedule == "asynchronous":
        return flowing_orders(strategy.mesh.pp, count, oldest=-strategy.mesh.pp)
    return orders(
        strategy.pipeline.schedule,
        num_workers=strategy.mesh.pp,
        num_stages=strategy.pipeline.num_stages,
        num_micro_batches=count,
    )


def _durations(stages: Sequence[StageTime]) -> tuple[dict[tuple[Work, int], Seconds], tuple[Seconds, ...]]:
    """Of every kind of work on every stage, a backward's halves being equal; and of the transfers over the cuts."""
    times: dict[tuple[Work, int], Seconds] = {}
    for number, stage in enumerate(stages):
        times |= {("forward", number): stage.forward, ("backward", number): stage.backward}
        times |= {("input", number): stage.backward / 2, ("weight", number): stage.backward / 2}
    return times, tuple(stage.transfer for stage in stages[1:])


def _means(events: Sequence[StageEvent]) -> dict[tuple[Work, int], Seconds]:
    found: dict[tuple[Work, int], list[Seconds]] = {}
    for event in events:
        found.setdefault((event.action.work, event.action.stage), []).append(event.end - event.start)
    return {key: mean(values) for key, values in found.items()}


def _trace(work: Work, bands: Sequence[tuple[str, Sequence[StageEvent]]]) -> dict[str, Any]:
    """All pieces of one kind of work: a bar from its start, as long as it lasts, with its micro-batch's number."""
    found = [(name, event) for name, events in bands for event in events if event.action.work == work]
    return {
        "type": "bar",
        "orientation": "h",
        "name": _NAMES[work],
        "y": [_label(name, event.rank) for name, event in found],
        "x": [(event.end - event.start) * 1e3 for _, event in found],
        "base": [event.start * 1e3 for _, event in found],
        "marker": {"color": _COLORS[work], "line": {"width": 1, "color": "--card"}},
        "text": [str(event.action.micro_batch) for _, event in found],
        "textposition": "inside",
        "textangle": 0,
        "insidetextanchor": "middle",
        "textfont": {"color": "--on-fill"},
        "hovertext": [
            f"{_NAMES[work]} of micro-batch {event.action.micro_batch}, stage {event.action.stage + 1}: "
            f"{format_seconds(event.end - event.start)}"
            for _, event in found
        ],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _caption(strategy: Strategy, label: str, planned: Sequence[StageEvent], measured: Sequence[StageEvent]) -> str:
    assert strategy.pipeline is not None
    parts = [f"{strategy.pipeline.schedule}, {strategy.pipeline.num_stages} stages on {strategy.mesh.pp} workers"]
    for name, events in ((label, planned), ("measured", measured)):
        if events:
            parts.append(
                f"{name}: {format_seconds(max(event.end for event in events))}, of which workers wait "
                f"{bubble(events):.1%} on average"
            )
    text = "; ".join(parts) + "."
    if label == "schedule":
        text += " The schedule’s line is drawn with the measured times of its pieces and without transfers."
    return text if measured else text + " No worker wrote the trace of a step, so nothing measured is drawn."


def _row(name: str, rank: int, events: Sequence[StageEvent]) -> tuple[str, ...]:
    own = [event for event in events if event.rank == rank]
    busy, span = sum(event.end - event.start for event in own), max(event.end for event in events)
    stages = sorted({event.action.stage + 1 for event in own})
    last = max(event.end for event in own)
    return (
        f"{name} worker {rank}", ", ".join(map(str, stages)), format_seconds(busy), format_seconds(last),
        f"{1 - busy / span:.1%}",
    )  # fmt: skip


def _rows(bands: Sequence[tuple[str, Sequence[StageEvent]]]) -> list[str]:
    return [_label(name, rank) for name, events in bands for rank in _ranks(events)]


def _label(name: str, rank: int) -> str:
    return f"{name}<br>worker {rank}"


def _ranks(events: Sequence[StageEvent]) -> list[int]:
    return sorted({event.rank for event in events})


def _has(events: Sequence[StageEvent], work: Work) -> bool:
    return any(event.action.work == work for event in events)
