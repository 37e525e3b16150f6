"""The pipeline's time line: predicted above measured, on one clock."""

import json
import re
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go
import pytest
import report_builders as build

from meshwright.cost import (
    Batch,
    Mesh,
    Pipeline,
    StageTime,
    StepTrace,
    Strategy,
    orders,
    simulated,
    write_trace,
)  # fmt: skip
from meshwright.documents import write_toml
from meshwright.report import read_run, write_page
from meshwright.report._pictures import pictures
from meshwright.report._pipeline_timeline import pipeline_figure

STAGES = (StageTime(forward=0.001, backward=0.002), StageTime(forward=0.002, backward=0.004, transfer=0.0005))


def pipelined(schedule="1f1b") -> Strategy:
    return replace(
        build.strategy(workers=2),
        mesh=Mesh(pp=2),
        batch=Batch(size=8, shares=(1,), accumulation=3),
        pipeline=Pipeline(schedule=schedule, cuts=("layers.1",)),
    )


def traces(schedule="1f1b") -> tuple[StepTrace, ...]:
    """Two workers whose clocks read their steps' beginnings 0.25 s apart, as they were."""
    lists = orders(schedule, num_workers=2, num_stages=2, num_micro_batches=3)
    durations = {(work, stage): 0.5 for work in ("forward", "backward", "input", "weight") for stage in range(2)}
    events = simulated(lists, durations)
    return tuple(
        StepTrace(
            rank=rank, step=8, began=100.0 + 0.25 * rank, phases=(),
            stages=tuple(
                replace(event, start=event.start - 0.25 * rank, end=event.end - 0.25 * rank)
                for event in events if event.rank == rank
            ),
        )
        for rank in range(2)
    )  # fmt: skip


def test_predicted_is_drawn_above_measured():
    figure = pipeline_figure(pipelined(), STAGES, traces())
    assert figure is not None
    assert figure.layout["yaxis"]["categoryarray"] == [
        "predicted<br>worker 0", "predicted<br>worker 1", "measured<br>worker 0", "measured<br>worker 1"
    ]  # fmt: skip
    forward = figure.traces[0]
    first = dict(zip(forward["y"][::-1], forward["base"][::-1], strict=True))
    assert first["predicted<br>worker 0"] == 0.0
    assert first["predicted<br>worker 1"] == pytest.approx(1.5), "a forward and a transfer later"
    assert first["measured<br>worker 1"] == pytest.approx(500.0), "on worker 0's clock"
    assert set(forward["text"]) == {"0", "1", "2"}


def test_the_caption_says_how_long_workers_wait():
    """Equal pieces of 0.5 s, 3 micro-batches on 2 workers: 4 s, of which 1/4 is waited."""
    figure = pipeline_figure(pipelined(), STAGES, traces())
    assert figure is not None
    assert "1f1b, 2 stages on 2 workers" in figure.caption
    assert "measured: 4 s, of which workers wait 25.0% on average" in figure.caption


def test_without_a_prediction_the_schedule_is_drawn_from_what_was_measured():
    figure = pipeline_figure(pipelined(), (), traces())
    assert figure is not None
    assert "schedule: 4 s" in figure.caption
    assert "without transfers" in figure.caption


def test_without_a_trace_the_prediction_stands_alone():
    figure = pipeline_figure(pipelined(), STAGES, ())
    assert figure is not None
    assert "nothing measured is drawn" in figure.caption
    assert pipeline_figure(pipelined(), (), ()) is None
    assert pipeline_figure(build.strategy(), STAGES, traces()) is None


def test_halves_of_a_backward_have_colours_of_their_own():
    figure = pipeline_figure(pipelined("zero_bubble"), STAGES, traces("zero_bubble"))
    assert figure is not None
    assert [trace["name"] for trace in figure.traces] == ["forward", "backward of activations", "backward of weights"]


def test_the_page_of_a_pipelined_run_has_it(tmp_path: Path):
    folder = build.write_run(tmp_path / "gpt")
    plan = build.plan()
    write_toml(
        replace(plan, strategy=pipelined(), prediction=replace(plan.prediction, stages=STAGES)), folder / "plan.toml"
    )
    for trace in traces():
        write_trace(trace, folder / "trace" / f"rank-{trace.rank}.json")
    run = read_run(folder)
    assert [trace.rank for trace in run.traces] == [0, 1]
    figure = next(figure for figure in pictures(run) if figure.key == "pipeline")
    data = json.loads(re.sub(r'"--[a-z0-9-]+"', '"#123456"', json.dumps([*figure.traces, figure.layout])))
    go.Figure(data=data[:-1], layout=data[-1])
    assert "The pipeline’s time line" in write_page(folder).read_text(encoding="utf-8")


def test_workers_of_a_hybrid_are_counted_as_everywhere():
    """The first pipeline of 2 × 2 × 2 workers runs on the first worker of each four."""
    strategy = replace(pipelined(), mesh=Mesh(pp=2, dp_replicate=2, tp=2))
    figure = pipeline_figure(strategy, STAGES, ())
    assert [row[:2] for row in figure.rows] == [("predicted worker 0", "1"), ("predicted worker 4", "2")]
