"""Whether what compression leaves out costs progress: a compressed step beside an exact one, from the same state.

At intervals a step is done twice on the same batch: with exact gradients, which is undone, and compressed. The loss on
that batch after each says what each has gained; where the compressed step's gain falls behind by more than the
tolerance, more is sent from then on. A check costs an exact exchange, one forward and backward, and two forwards.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from meshwright.cost import Strategy
from meshwright.run._job import Job
from meshwright.run._placement import Carrying, Placed
from meshwright.run._snapshot import Snapshot


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One comparison; losses on the same batch.

    Args:
        step: number of the step.
        before: loss before the step.
        exact: after an exact step.
        compressed: after the compressed step.
        refined: whether more is sent from then on.
    """

    step: int
    before: float
    exact: float
    compressed: float
    refined: bool

    @property
    def shortfall(self) -> float:
        """What the compressed step gains less, as a share of what the exact one gains; 0 where that gains nothing."""
        gain = self.before - self.exact
        return (self.compressed - self.exact) / gain if gain > 0 else 0.0

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        found = (
            f"step {self.step}: the compressed step gained {self.before - self.compressed:.3g} of loss, "
            f"an exact one {self.before - self.exact:.3g}"
        )
        return f"{found}; more of the gradients is sent from now on" if self.refined else found


class Guard:
    """Compares at intervals.

    Args:
        job: whose model and optimizer are stepped.
        placed: the job under the strategy.
        every: steps between two comparisons.
        tolerance: largest shortfall.
    """

    def __init__(self, job: Job, placed: Placed, *, every: int, tolerance: float) -> None:
        assert isinstance(placed, Carrying)
        self._job = job
        self._carrying: Carrying = placed
        self._every = every
        self._tolerance = tolerance
        self._can_refine = True
        self.checks: list[Check] = []
        self._num_told = 0

    def is_due(self, step: int) -> bool:
        """Whether this step, from 1, is compared: the first ones, in which everything changes, never are."""
        return step % self._every == 0

    def new_checks(self) -> list[Check]:
        """Comparisons since this was asked last."""
        fresh, self._num_told = self.checks[self._num_told :], len(self.checks)
        return fresh

    def step(
        self,
        number: int,
        *,
        compute: Callable[[], Tensor],
        update: Callable[[], object],
        loss: Callable[[], float],
    ) -> tuple[Tensor, Check]:
        """Does a step twice, keeps the compressed one.

        Args:
            number: of the step, from 1.
            compute: leaves gradients, gives the global loss before the step.
            update: clips and updates.
            loss: the global loss on the same batch now.
        """
        with self._undone():
            with self._carrying.exactly():
                compute()
                update()
            exact = loss()
        before = compute()
        update()
        with self._buffers_kept():
            compressed = loss()
        check = Check(step=number, before=float(before), exact=exact, compressed=compressed, refined=False)
        if self._can_refine and check.shortfall > self._tolerance:
            self._can_refine = self._carrying.refine()
            check = Check(
                step=number, before=check.before, exact=exact, compressed=compressed, refined=self._can_refine
            )
        self.checks.append(check)
        return before, check

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Puts parameters, buffers, the optimizer's state and random numbers back."""
        optimizer = self._job.optimizer
        tensors = list({id(item): item for group in optimizer.param_groups for item in group["params"]}.values())
        start = Snapshot(self._job.model, optimizer, tensors)
        yield
        start.restore()

    @contextmanager
    def _buffers_kept(self) -> Iterator[None]:
        buffers = [(buffer, buffer.clone()) for buffer in self._job.model.buffers()]
        yield
        for buffer, value in buffers:
            buffer.copy_(value)


def guard_of(job: Job, placed: Placed, strategy: Strategy | None) -> Guard | None:
    """The guard of a compressed exchange; None where nothing is compressed, or checks are off.

    With gradients in shards no worker has the exact gradient, so nothing is compared.
    """
    choice = strategy.exchange.compression if strategy is not None else None
    if choice is None or not choice.check_every or not isinstance(placed, Carrying):
        return None
    if strategy is None or strategy.sharding not in ("none", "optimizer"):
        return None
    return Guard(job, placed, every=choice.check_every, tolerance=choice.tolerance)
