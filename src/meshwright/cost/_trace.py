"""One step of one worker on a time line, as a file that Chrome's tracing page and Perfetto open.

The file is the Trace Event Format's JSON object: complete events (`ph` X) with times in microseconds, one process per
worker, one thread for the step's phases and one for each stage of a pipeline. What is needed to read a stage's events
back is in their `args`. Source: Trace Event Format (Google 2016), "JSON Object Format".
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshwright.cost._schedule import Action, StageEvent
from meshwright.errors import DocumentError
from meshwright.units import Seconds

_PHASES, _FIRST_STAGE = 0, 1
_LETTERS = {"forward": "F", "backward": "B", "input": "I", "weight": "W"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A part of the step, such as the optimizer's update.

    Args:
        name: of it.
        start: from the step's beginning (s).
        end: likewise (s).
    """

    name: str
    start: Seconds
    end: Seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTrace:
    """What one worker did in one step.

    Args:
        rank: of the worker.
        step: its number.
        began: when the step began (s since 1970, by the worker's clock).
        phases: in order of time.
        stages: what was done for each stage and micro-batch; empty without a pipeline.
    """

    rank: int
    step: int
    began: Seconds
    phases: tuple[Phase, ...]
    stages: tuple[StageEvent, ...] = ()


def write_trace(trace: StepTrace, path: Path) -> None:
    """Writes a step's trace; an earlier one there is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_document(trace)), encoding="utf-8")


def read_trace(path: Path) -> StepTrace:
    """The trace that `write_trace` wrote.

    Raises:
        DocumentError: the file is not one of those.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        about = document["otherData"]
        began = about["began"]
        events = [event for event in document["traceEvents"] if event["ph"] == "X"]
        return StepTrace(
            rank=about["rank"],
            step=about["step"],
            began=began,
            phases=tuple(
                Phase(name=event["name"], start=start, end=start + event["dur"] / 1e6)
                for event in events
                if event["tid"] == _PHASES
                for start in [event["ts"] / 1e6]
            ),
            stages=tuple(
                StageEvent(
                    rank=event["args"]["worker"],
                    action=Action(
                        work=event["args"]["work"],
                        stage=event["args"]["stage"],
                        micro_batch=event["args"]["micro_batch"],
                    ),
                    start=start,
                    end=start + event["dur"] / 1e6,
                )
                for event in events
                if event["tid"] >= _FIRST_STAGE
                for start in [event["ts"] / 1e6]
            ),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DocumentError(
            f"{path} is not the trace of a step",
            cause=f"{type(error).__name__}: {error}",
            alternatives=["delete it: the report then leaves the time line out"],
        ) from None


def _document(trace: StepTrace) -> dict[str, Any]:
    threads = {_PHASES: "step", **{_FIRST_STAGE + event.action.stage: "" for event in trace.stages}}
    names = [
        {
            "name": "process_name",
            "ph": "M",
            "ts": 0,
            "pid": trace.rank,
            "tid": _PHASES,
            "args": {"name": f"worker {trace.rank}"},
        },
        *(
            {
                "name": "thread_name",
                "ph": "M",
                "ts": 0,
                "pid": trace.rank,
                "tid": thread,
                "args": {"name": name or f"stage {1 + thread - _FIRST_STAGE}"},
            }
            for thread, name in sorted(threads.items())
        ),
    ]
    phases = [
        _event(trace, phase.name, _PHASES, phase.start, phase.end, category="phase", arguments={"step": trace.step})
        for phase in trace.phases
    ]
    stages = [
        _event(
            trace, f"{_LETTERS[event.action.work]}{event.action.micro_batch}", _FIRST_STAGE + event.action.stage,
            event.start, event.end, category=event.action.work,
            arguments={
                "work": event.action.work,
                "stage": event.action.stage,
                "micro_batch": event.action.micro_batch,
                "worker": event.rank,
            },
        )
        for event in trace.stages
    ]  # fmt: skip
    return {
        "traceEvents": [*names, *phases, *stages],
        "displayTimeUnit": "ms",
        "otherData": {"rank": trace.rank, "step": trace.step, "began": trace.began},
    }


def _event(
    trace: StepTrace, name: str, thread: int, start: Seconds, end: Seconds, *, category: str, arguments: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": name, "cat": category, "ph": "X", "ts": start * 1e6, "dur": (end - start) * 1e6, "pid": trace.rank,
        "tid": thread, "args": arguments,
    }  # fmt: skip
