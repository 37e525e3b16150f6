r"""From a pipeline's span to the step that it is part of, and back.

A step takes the span of its micro-batches but for the share of filling and emptying that is not waited for, and what a
host does once a step: with the share $b \le 1$, the busiest worker's time $B$ and the overhead $o$ a span $S \ge B$
makes a step of at least $b S + (1 - b) B + o$. What is at least $B$ counts whole, so that a bound on it needs no $b$.
"""

from dataclasses import dataclass

from meshwright.units import Seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanInStep:
    """What surrounds the span of one frame's pipeline.

    Args:
        busy: of the busiest worker, at least (s).
        waited: least share of filling and emptying that is waited for.
        overhead: of a step besides computing and exchanging, at least (s).
        factor: correction of every item.
    """

    busy: Seconds
    waited: float
    overhead: Seconds
    factor: float

    def step_of(self, span: Seconds) -> Seconds:
        """A lower bound on the step, from one on the span."""
        return self.step_around(self.waited * span + (1 - self.waited) * self.busy)

    def step_around(self, worked: Seconds) -> Seconds:
        """A lower bound on the step, from one on what a worker has to do in it."""
        return (worked + self.overhead) * self.factor

    def within(self, step: Seconds) -> Seconds:
        """The most that a worker may have to do in a step."""
        return step / self.factor - self.overhead

    def longest(self, step: Seconds) -> Seconds:
        """The longest span of a step; `step_of` the other way round."""
        return (self.within(step) - (1 - self.waited) * self.busy) / self.waited
