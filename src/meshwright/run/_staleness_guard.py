"""Whether steps apart, or late ones, cost progress: a span of them beside exact steps from the same state.

At intervals, from a state that all workers share, a span of steps is done as the plan says, and once more exactly on
the same batches, which is undone. The loss on the span's first batch after each says what each has gained, and for
workers that train apart also what each has gained alone before they met. Where less is gained than the tolerance
allows, or than alone, workers draw nearer: they meet more often, or a pipeline is emptied after every step. A
check costs the span's steps once more, with exact exchange, and some forwards.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from meshwright.run._job import Job
from meshwright.run._placement import Drifting, Parting, Placed
from meshwright.run._snapshot import Snapshot

# Workers alone are judged on examples that they have trained on themselves: so much of the tolerance is theirs.
_ALONE_PART = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanCheck:
    """One comparison; global losses on the span's first batch.

    Args:
        step: the span's last one.
        steps: how many.
        before: loss before the span.
        exact: after exact steps.
        stale: after the plan's.
        alone: of workers on their own, before they met; None where there is no such thing.
        tolerance: most of the exact gain that may be missing.
        change: what was changed; empty where nothing was.
    """

    step: int
    steps: int
    before: float
    exact: float
    stale: float
    alone: float | None
    tolerance: float
    change: str = ""

    @property
    def shortfall(self) -> float:
        """What the plan's steps gain less, as a share of what exact ones gain; 0 where those gain nothing."""
        gain = self.before - self.exact
        return (self.stale - self.exact) / gain if gain > 0 else 0.0

    @property
    def refined(self) -> bool:
        """Whether something was changed."""
        return bool(self.change)

    @property
    def is_behind(self) -> bool:
        """Whether too much is missing, or workers had gained more on their own; also a loss that is no number."""
        if not math.isfinite(self.stale):
            return True
        if self.shortfall > self.tolerance:
            return True
        gain = 0.0 if self.alone is None else self.before - self.alone
        return gain > 0 and self.before - self.stale < (1 - _ALONE_PART * self.tolerance) * gain

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        alone = "" if self.alone is None else f", workers on their own {self.before - self.alone:.3g}"
        found = (
            f"meshwright: {self.steps} steps to step {self.step} gained {self.before - self.stale:.3g} of loss, exact "
            f"ones {self.before - self.exact:.3g}{alone} ({self.tolerance:.0%} of the gain may be missing)"
        )
        return f"{found}; {self.change}" if self.change else found


class StalenessGuard:
    """Compares at intervals.

    Args:
        job: whose model and optimizer are stepped.
        placed: the job under the strategy.
        every: steps from the begin of one span to that of the next.
        span: steps of a span.
        tolerance: largest shortfall.
    """

    def __init__(self, job: Job, placed: Placed, *, every: int, span: int, tolerance: float) -> None:
        assert isinstance(placed, Drifting)
        self._job = job
        self._placed = placed
        self._drifting: Drifting = placed
        self._every = every
        self._span = span
        self._tolerance = tolerance
        self._shares: list[Any] = []
        self._before = 0.0
        self._start: Snapshot | None = None
        self._new: list[SpanCheck] = []

    def new_checks(self) -> list[SpanCheck]:
        """Comparisons since this was asked last."""
        fresh, self._new = self._new, []
        return fresh

    def step(
        self,
        number: int,
        share: Any,
        *,
        run: Callable[[Any], Tensor],
        again: Callable[[Any], object],
        loss: Callable[[Any], float],
    ) -> tuple[Tensor, SpanCheck | None]:
        """Does a step, and at the end of a span what it takes to compare.

        Args:
            number: of the step, from 1.
            share: of the batch.
            run: does a step.
            again: does a step that does not count.
            loss: of a share now, of those that agree in every step.
        """
        if self._start is None and number > 1 and (number - 1) % self._every == 0:
            self._drifting.settle()
            self._start = self._snapshot()
            self._before = self._loss(loss, share)
        if self._start is None:
            return run(share), None
        self._shares.append(share)
        if len(self._shares) < self._span:
            return run(share), None
        apart = isinstance(self._drifting, Parting)
        with self._drifting.alone() if isinstance(self._drifting, Parting) else nullcontext():
            value = run(share)
        alone = self._loss(loss, self._shares[0]) if apart else None
        self._drifting.settle()
        return value, self._compared(number, alone, again=again, loss=loss)

    def _compared(
        self, number: int, alone: float | None, *, again: Callable[[Any], object], loss: Callable[[Any], float]
    ) -> SpanCheck:
        assert self._start is not None
        first = self._shares[0]
        stale, now = self._loss(loss, first), self._snapshot()
        self._start.restore()
        with self._drifting.in_step():
            for share in self._shares:
                again(share)
            exact = self._loss(loss, first)
        now.restore()
        check = SpanCheck(
            step=number, steps=len(self._shares), before=self._before, exact=exact, stale=stale, alone=alone,
            tolerance=self._tolerance,
        )  # fmt: skip
        self._start = None
        self._shares = []
        if check.is_behind:
            check = SpanCheck(
                step=check.step, steps=check.steps, before=check.before, exact=exact, stale=stale, alone=alone,
                tolerance=self._tolerance, change=self._drifting.draw_nearer(),
            )  # fmt: skip
        self._new.append(check)
        return check

    def _loss(self, loss: Callable[[Any], float], share: Any) -> float:
        return self._drifting.averaged(loss(share))

    def _snapshot(self) -> Snapshot:
        from meshwright.parallel import local

        held = [local(item.parameter) for item in self._placed.held()]
        return Snapshot(self._job.model, self._job.optimizer, held)
