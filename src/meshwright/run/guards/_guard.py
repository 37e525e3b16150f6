"""What all guards do: a step, and where it is due a comparison that is kept until somebody asks for it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from meshwright.run._job import Job
from meshwright.run._placement import Placed
from meshwright.run.guards._checks import SpanCheck, StepCheck
from meshwright.run.guards._snapshot import Snapshot, buffers_kept

Check = StepCheck | SpanCheck


@dataclass(frozen=True, kw_only=True, slots=True)
class Stepping:
    """What the engine does with a share of a batch.

    Args:
        run: a step; gives the loss before it.
        again: a step that does not count.
        loss: looks at the loss now, of those that agree in every step.
    """

    run: Callable[[Any], Tensor]
    again: Callable[[Any], object]
    loss: Callable[[Any], float]


class Guard(ABC):
    """Compares at intervals.

    Args:
        job: whose model and optimizer are stepped.
        placed: the job under the strategy.
        every: steps from one comparison to the next, at least.
        tolerance: most of what exact steps gain that may be missing.
    """

    def __init__(self, job: Job, placed: Placed, *, every: int, tolerance: float) -> None:
        self._job = job
        self._placed = placed
        self._every = every
        self._tolerance = tolerance
        self._new: list[Check] = []

    @abstractmethod
    def step(self, number: int, share: Any, how: Stepping) -> tuple[Tensor, Check | None]:
        """Does a step, and a comparison where it is time for one.

        Args:
            number: of the step, from 1.
            share: of the batch.
            how: steps are done.
        """

    def new_checks(self) -> list[Check]:
        """Comparisons since this was asked last."""
        fresh, self._new = self._new, []
        return fresh

    def _loss(self, how: Stepping, share: Any) -> float:
        """The loss now; what a forward leaves in buffers is no part of the run."""
        with buffers_kept(self._job.model):
            return how.loss(share)

    def _snapshot(self) -> Snapshot:
        """What this worker holds of the job, so that steps can be undone."""
        from meshwright.parallel import local

        held = [local(item.parameter) for item in self._placed.held()]
        return Snapshot(self._job.model, self._job.optimizer, held)
