"""What a comparison with exact steps says: of one step, or of a span of them."""

import math
from dataclasses import dataclass

# Workers alone are judged on examples that they have trained on themselves: so much of the tolerance is theirs.
_ALONE_PART = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCheck:
    """A compressed step beside an exact one; losses on the same batch.

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
    refined: bool = False

    @property
    def shortfall(self) -> float:
        """What the compressed step gains less, as a share of what the exact one gains; 0 where that gains nothing."""
        return _shortfall(self.compressed, before=self.before, exact=self.exact)

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        found = (
            f"step {self.step}: the compressed step gained {self.before - self.compressed:.3g} of loss, "
            f"an exact one {self.before - self.exact:.3g}"
        )
        return f"{found}; more of the gradients is sent from now on" if self.refined else found


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanCheck:
    """Some steps beside exact ones; global losses on the span's first batch.

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
        return _shortfall(self.stale, before=self.before, exact=self.exact)

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


def _shortfall(found: float, *, before: float, exact: float) -> float:
    gain = before - exact
    return (found - exact) / gain if gain > 0 else 0.0
