"""Whether what compression leaves out costs progress: a compressed step beside an exact one, from the same state.

At intervals a step is done twice on the same batch: with exact gradients, which is undone, and compressed. The loss on
that batch after each says what each has gained; where the compressed step's gain falls behind by more than the
tolerance, more is sent from then on. A check costs an exact exchange, one forward and backward, and two forwards.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor

from meshwright.run._job import Job
from meshwright.run._placement import Carrying, Placed
from meshwright.run.guards._checks import StepCheck
from meshwright.run.guards._guard import Guard, Stepping


class CompressionGuard(Guard):
    """Compares every so many steps; the first ones, in which everything changes, are left out.

    Args:
        job: whose model and optimizer are stepped.
        placed: the job under the strategy.
        every: steps from one comparison to the next.
        tolerance: most of what an exact step gains that may be missing.
    """

    def __init__(self, job: Job, placed: Placed, *, every: int, tolerance: float) -> None:
        super().__init__(job, placed, every=every, tolerance=tolerance)
        assert isinstance(placed, Carrying)
        self._carrying: Carrying = placed
        self._can_refine = True

    def step(self, number: int, share: Any, how: Stepping) -> tuple[Tensor, StepCheck | None]:
        """Does a step; where it is compared twice, of which the compressed one stays."""
        if number % self._every:
            return how.run(share), None
        start = self._snapshot()
        with self._carrying.exactly():
            how.again(share)
        exact = self._loss(how, share)
        start.restore()
        before = how.run(share)
        check = StepCheck(step=number, before=float(before), exact=exact, compressed=self._loss(how, share))
        if self._can_refine and check.shortfall > self._tolerance:
            self._can_refine = self._carrying.refine()
            check = replace(check, refined=self._can_refine)
        self._new.append(check)
        return before, check
