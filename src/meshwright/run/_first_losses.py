"""The one-device program's first losses, for the report to draw beside the run's."""

import json
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from meshwright.run._engine import Engine
from meshwright.run._job import Job
from meshwright.units import Seconds

FILE = "reference.jsonl"
# The run waits for them: enough to see that the curves are one, not to draw all of it. The first step is not counted,
# because it fetches memory anew while the other planning processes end.
LONGEST: Seconds = 0.7


class FirstLosses:
    """Steps of the script as it is written, in the planning process, after the plan was made and before it is left.

    Args:
        job: worked on in place; the process is thrown away.
        folder: where `reference.jsonl` goes.
        steps: at most so many.
    """

    def __init__(self, job: Job, *, folder: Path, steps: int) -> None:
        self._job = job
        self._path = folder / FILE
        self._most = steps
        self._engine: Engine | None = None
        self._begun = time.perf_counter()

    @property
    def num_steps(self) -> int:
        """Steps done."""
        return 0 if self._engine is None else self._engine.steps

    def step(self, batch: Any) -> Tensor:
        """Runs a step and writes its loss down.

        Raises:
            SystemExit: this was the last, so that nothing of the script that follows it runs here; the time is over; or
                it failed, which the run will meet and tell.
        """
        if self.num_steps >= self._most or time.perf_counter() - self._begun > LONGEST:
            raise SystemExit(0)
        if self._engine is None:
            self._engine = Engine(self._job)
        begun = time.perf_counter()
        try:
            loss = self._engine.step(batch)
        except Exception:
            raise SystemExit(0) from None
        if self.num_steps == 1:
            self._begun = time.perf_counter()
        record = {"step": self.num_steps, "loss": loss.item(), "duration": time.perf_counter() - begun}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self.num_steps == self._most:
            raise SystemExit(0)
        return loss

    def leave(self) -> None:
        """Nothing is left to do when the script ends by itself."""
