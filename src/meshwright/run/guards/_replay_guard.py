"""Whether workers that wait for nobody lose progress by it: some steps of theirs beside exact ones, all undone.

They have no state in common and are at different steps, so one of them calls the others from time to time. Each keeps
the examples of its next steps, comes, and with all there the same steps are tried three times from where they have come
to together: as the plan says, exactly, and by each worker alone. How long that took decides when it may be next: a
worker that is ten times slower keeps the others waiting here, so that comparisons have a share of the time, not of the
steps.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor

from meshwright.run._job import Job
from meshwright.run._placement import Placed, Unwaiting
from meshwright.run.guards._checks import SpanCheck
from meshwright.run.guards._guard import Guard, Stepping
from meshwright.units import Seconds

# Largest part of the time that comparisons take, beyond the first.
_TIME_SHARE = 0.05
# Steps between two looks whether this worker is called: a look is a message to the store.
_LOOK_EVERY = 8
# How often the kept examples are gone through, so that workers go on from what the others did meanwhile.
_ROUNDS = 2


class ReplayGuard(Guard):
    """Compares when all workers have come.

    Args:
        job: whose model and optimizer are stepped.
        placed: the job under the strategy.
        every: steps of the calling worker between two calls.
        span: steps whose examples are kept.
        tolerance: most of what exact steps gain that may be missing.
        calls: whether this worker is the one that calls.
    """

    def __init__(self, job: Job, placed: Placed, *, every: int, span: int, tolerance: float, calls: bool) -> None:
        super().__init__(job, placed, every=every, tolerance=tolerance)
        assert isinstance(placed, Unwaiting)
        self._unwaiting: Unwaiting = placed
        self._span = span
        self._calls = calls
        self._called_at = 0
        self._ended: Seconds = 0.0
        self._took: Seconds = 0.0
        self._shares: list[Any] | None = None

    def step(self, number: int, share: Any, how: Stepping) -> tuple[Tensor, SpanCheck | None]:
        """Does a step, and a comparison where all workers have come to one."""
        value = how.run(share)
        if not self._unwaiting.roams:
            return value, None
        if self._shares is not None:
            self._shares.append(share)
            return value, self._brought_together(number, how) if len(self._shares) == self._span else None
        if self._calls and self._is_time(number):
            self._called_at = number
            self._unwaiting.call()
        if number % _LOOK_EVERY == 0 and self._unwaiting.is_called():
            self._shares = []
        return value, None

    def _is_time(self, number: int) -> bool:
        rested = time.perf_counter() - self._ended
        return number - self._called_at >= self._every and rested * _TIME_SHARE >= self._took

    def _brought_together(self, number: int, how: Stepping) -> SpanCheck | None:
        shares, self._shares = self._shares, None
        assert shares is not None
        begun = time.perf_counter()
        check = self._compared(number, shares, how) if self._unwaiting.come() else None
        self._ended = time.perf_counter()
        self._took = self._ended - begun
        return check

    def _compared(self, number: int, shares: list[Any], how: Stepping) -> SpanCheck:
        placed = self._unwaiting
        placed.settle()
        before = placed.averaged(self._loss(how, shares[0]))

        def tried(manner: AbstractContextManager[object], end: Callable[[], object]) -> float:
            start = self._snapshot()
            with placed.undone(), manner:
                for each in shares * _ROUNDS:
                    how.again(each)
                end()
                value = placed.averaged(self._loss(how, shares[0]))
            start.restore()
            return value

        check = SpanCheck(
            step=number,
            steps=len(shares) * _ROUNDS,
            before=before,
            stale=tried(nullcontext(), placed.settle),
            exact=tried(placed.in_step(), _nothing),
            alone=tried(placed.alone(), _nothing),
            tolerance=self._tolerance,
        )
        placed.settle()
        if check.is_behind:
            check = replace(check, change=placed.draw_nearer())
        self._new.append(check)
        return check


def _nothing() -> None:
    """Workers that train alone, or in step, have nothing to bring together."""
