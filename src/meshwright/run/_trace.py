"""Now and then a step is written down with its times, for the report and for Perfetto."""

import time
from pathlib import Path

from meshwright.cost import Phase, StageEvent, StepTrace, write_trace
from meshwright.run._engine import Engine
from meshwright.run._placement import SplitPlaced

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
        return StepTrace(rank=self._rank, step=engine.steps, began=began, phases=phases, stages=_stages(engine))


def _stages(engine: Engine) -> tuple[StageEvent, ...]:
    """What a pipeline's worker did for each stage and micro-batch, from the step's beginning."""
    if engine.strategy is None or not isinstance(engine.placed, SplitPlaced):
        return ()
    begin, seconds = engine.stamps.marks[0][1], engine.clock.seconds
    return tuple(
        StageEvent(
            rank=engine.strategy.mesh.coordinate(engine.rank, "pp"),
            action=action,
            start=seconds(begin, start),
            end=seconds(begin, end),
        )
        for action, start, end in engine.placed.pipeline_stamps
    )
