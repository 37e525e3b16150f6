"""The trace of a step, written for Perfetto and read back."""

import itertools
import json
import random
from dataclasses import replace

import pytest

from meshwright.cost import Action, Phase, StageEvent, StepTrace, read_trace, write_trace
from meshwright.errors import DocumentError

TRACE = StepTrace(
    rank=3,
    step=8,
    began=1.75e9,
    phases=(Phase(name="forward", start=0.0, end=0.5), Phase(name="optimizer", start=0.5, end=0.625)),
    stages=(
        StageEvent(rank=1, action=Action(work="forward", stage=1, micro_batch=0), start=0.125, end=0.25),
        StageEvent(rank=1, action=Action(work="weight", stage=3, micro_batch=2), start=0.25, end=0.5),
    ),
)


def test_a_trace_is_read_back_as_it_was(tmp_path):
    write_trace(TRACE, tmp_path / "trace" / "rank-3.json")
    assert read_trace(tmp_path / "trace" / "rank-3.json") == TRACE


def test_the_file_is_what_perfetto_takes(tmp_path):
    """Microseconds, a process per worker, a thread per stage, and names for both."""
    write_trace(TRACE, tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    complete = [event for event in events if event["ph"] == "X"]
    assert [(event["name"], event["ts"], event["dur"], event["tid"]) for event in complete] == [
        ("forward", 0.0, 500000.0, 0), ("optimizer", 500000.0, 125000.0, 0),
        ("F0", 125000.0, 125000.0, 2), ("W2", 250000.0, 250000.0, 4),
    ]  # fmt: skip
    assert all(event["pid"] == 3 and {"name", "ph", "ts", "tid"} <= event.keys() for event in events)
    named = [(event["name"], event["tid"], event["args"]["name"]) for event in events if event["ph"] == "M"]
    assert named == [
        ("process_name", 0, "worker 3"), ("thread_name", 0, "step"), ("thread_name", 2, "stage 2"),
        ("thread_name", 4, "stage 4"),
    ]  # fmt: skip


def test_perfetto_drops_no_phase(tmp_path):
    """Its loader cuts times to whole nanoseconds and drops an event that then ends after its successor began."""
    draw = random.Random(0)
    marks = [75_000 + moment * 1e-9 for moment in sorted(draw.sample(range(10**9), 2000))]
    ends = [mark - marks[0] for mark in marks]
    phases = tuple(Phase(name="forward", start=start, end=end) for start, end in itertools.pairwise(ends))
    write_trace(replace(TRACE, phases=phases), tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    loaded = [
        (int(event["ts"] * 1000.0), int(event["dur"] * 1000.0)) for event in events if event.get("cat") == "phase"
    ]
    assert len(loaded) == 1999
    assert all(start + length <= later for (start, length), (later, _) in itertools.pairwise(loaded))


@pytest.mark.parametrize("text", ["", "[]", '{"traceEvents": []}'])
def test_a_file_that_is_no_trace(tmp_path, text):
    (tmp_path / "trace.json").write_text(text)
    with pytest.raises(DocumentError, match="is not the trace of a step"):
        read_trace(tmp_path / "trace.json")
