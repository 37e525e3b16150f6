"""Whether steps apart, or late ones, cost progress: a span of them beside exact steps from the same state.

At intervals, from a state that all workers share, a span of steps is done as the plan says, and once more exactly on
the same batches, which is undone. The loss on the span's first batch after each says what each has gained, and for
workers that train apart also what each has gained alone before they met. Where less is gained than the tolerance
allows, or than alone, workers draw nearer: they meet more often, or a pipeline is emptied after every step. A
check costs the span's steps once more, with exact exchange, and some forwards.
"""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor

from meshwright.run._job import Job
from meshwright.run._placement import Drifting, Parting, Placed
from meshwright.run.guards._checks import SpanCheck
from meshwright.run.guards._guard import Guard, Stepping
from meshwright.run.guards._snapshot import Snapshot


class StalenessGuard(Guard):
    """Compares at intervals.

    Args:
        job: whose model and optimizer are stepped.
        placed: the job under the strategy.
        every: steps from the begin of one span to that of the next.
        span: steps of a span.
        tolerance: most of what exact steps gain that may be missing.
    """

    def __init__(self, job: Job, placed: Placed, *, every: int, span: int, tolerance: float) -> None:
        super().__init__(job, placed, every=every, tolerance=tolerance)
        assert isinstance(placed, Drifting)
        self._drifting: Drifting = placed
        self._span = span
        self._shares: list[Any] = []
        self._before = 0.0
        self._start: Snapshot | None = None

    def step(self, number: int, share: Any, how: Stepping) -> tuple[Tensor, SpanCheck | None]:
        """Does a step, and at the end of a span what it takes to compare."""
        if self._start is None and number > 1 and (number - 1) % self._every == 0:
            self._drifting.settle()
            self._start = self._snapshot()
            self._before = self._averaged(how, share)
        if self._start is None:
            return how.run(share), None
        self._shares.append(share)
        if len(self._shares) < self._span:
            return how.run(share), None
        apart = isinstance(self._drifting, Parting)
        with self._drifting.alone() if isinstance(self._drifting, Parting) else nullcontext():
            value = how.run(share)
        alone = self._averaged(how, self._shares[0]) if apart else None
        self._drifting.settle()
        return value, self._compared(number, alone, how)

    def _compared(self, number: int, alone: float | None, how: Stepping) -> SpanCheck:
        assert self._start is not None
        first = self._shares[0]
        stale, now = self._averaged(how, first), self._snapshot()
        self._start.restore()
        with self._drifting.in_step():
            for share in self._shares:
                how.again(share)
            exact = self._averaged(how, first)
        now.restore()
        check = SpanCheck(
            step=number, steps=len(self._shares), before=self._before, exact=exact, stale=stale, alone=alone,
            tolerance=self._tolerance,
        )  # fmt: skip
        self._start = None
        self._shares = []
        if check.is_behind:
            check = replace(check, change=self._drifting.draw_nearer())
        self._new.append(check)
        return check

    def _averaged(self, how: Stepping, share: Any) -> float:
        return self._drifting.averaged(self._loss(how, share))
