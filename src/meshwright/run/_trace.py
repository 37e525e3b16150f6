"""Now and then a step is written down with its times, for the report and for Perfetto."""

import time
from pathlib import Path

from meshwright.cost import Phase, StageEvent, StepTrace, write_trace
from meshwright.parallel import SplitModel
from meshwright.run._engine import Engine

# The first steps touch memory for the first time; a later trace replaces an earlier one.
_STEPS = (2, 8, 32)


class Tracer:
    """Writes one worker's traces: `trace/rank-N.json`.

    Args:
        folder: the run's.
        rank: of this worker.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self._path = folder / "trace" / f"rank-{rank}.json"
        self._rank = rank

    def look_at(self, engine: Engine) -> None:
        """Writes the step that the engine has just done, if it is one of those that are written."""
        if engine.steps in _STEPS:
            write_trace(self._trace(engine), self._path)

    def _trace(self, engine: Engine) -> StepTrace:
        marks, clock = engine.stamps.marks, engine.clock
        begin = marks[0][1]
        ends = [clock.seconds(begin, stamp) for _, stamp in marks]
        phases = tuple(
            Phase(name=name, start=start, end=end)
            for (name, _), start, end in zip(marks[1:], ends, ends[1:], strict=False)
            if end > start
        )
        began = time.time() - clock.seconds(begin, clock.stamp())
        return StepTrace(rank=self._rank, step=engine.steps, began=began, phases=phases, stages=_stages(engine, began))


def _stages(engine: Engine, began: float) -> tuple[StageEvent, ...]:
    """The pipeline's events, from the step's beginning."""
    if not isinstance(engine.placed, SplitModel):
        return ()
    later = engine.placed.pipeline_began - began
    return tuple(
        StageEvent(rank=event.rank, action=event.action, start=event.start + later, end=event.end + later)
        for event in engine.placed.pipeline_events
    )
