"""What a hand-written loop leaves behind in a run: its steps and their times. The loss is the script's own to know."""

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from meshwright.run._clock import BACKWARD, BEGIN, FORWARD, OPTIMIZER, OVERHEAD, Clock, Stamps
from meshwright.run._metrics import Recorder
from meshwright.units import Seconds


class LoopRecord:
    """Times a loop from the first forward of a step to the end of its update.

    Args:
        recorder: writes steps down; None where nobody asks.
        clock: that stamps are taken with.
    """

    def __init__(self, recorder: Recorder | None, *, clock: Clock) -> None:
        self.recorder = recorder
        self.steps = 0
        self._clock = clock
        self._stamps: Stamps | None = None
        self._examples = 0
        self.undo = ExitStack()

    @contextmanager
    def forward(self, examples: int) -> Iterator[None]:
        """Around a call of the model.

        Args:
            examples: of the whole batch.
        """
        self._mark(OVERHEAD)
        yield
        self._examples += examples
        self._mark(FORWARD)

    def backward_begins(self) -> None:
        """What was between the forward and now is the script's own."""
        self._mark(OVERHEAD)

    def backward_ended(self) -> None:
        """With its exchange."""
        self._mark(BACKWARD)

    def update_begins(self) -> None:
        """The optimizer is about to step."""
        self._mark(OVERHEAD)

    def stepped(self, *, communication: Seconds, grad_norm: Any) -> None:
        """The step is over.

        Args:
            communication: time that it waited for other workers (s).
            grad_norm: of the whole gradient, where it was clipped.
        """
        self._mark(OPTIMIZER)
        self.steps += 1
        stamps, self._stamps = self._stamps, None
        if self.recorder is not None and stamps is not None:
            stamps.communication = communication
            self.recorder.add(None, stamps, examples=self._examples, grad_norm=grad_norm)
        self._examples = 0

    def leave(self) -> None:
        """Nothing is left to do when the script ends by itself."""

    def close(self) -> None:
        """The run is over: undoes the strategy and closes its connections, while the process still can."""
        self.undo.close()
        gc.unfreeze()

    def _mark(self, phase: str) -> None:
        if self._stamps is None:
            self._stamps = Stamps(marks=[(BEGIN, self._clock.stamp())])
            return
        self._stamps.marks.append((phase, self._clock.stamp()))
