"""What a plan is expected to cost, item by item."""

from dataclasses import dataclass, fields
from typing import Literal

from meshwright.units import Bytes, Dollars, Joules, Seconds

# When a worker holds most: in the loss of the last forward, in a backward, or in the update.
Moment = Literal["loss", "backward", "update"]
# Where a prediction's rates come from: a probe, a cluster file that somebody wrote, or fits to published runs.
RateSource = Literal["measured", "written", "fitted"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeBreakdown:
    """Where one step's time goes on the slowest worker (s); the items add up to the step.

    Args:
        forward: forward and loss.
        backward: backward.
        recompute: forward operations done again.
        optimizer: update.
        communication: collectives that nothing hides.
        waiting: bubbles, stragglers, and batches that are loaded later than they are asked for.
        overhead: framework and splitting of the batch.
    """

    forward: Seconds = 0.0
    backward: Seconds = 0.0
    recompute: Seconds = 0.0
    optimizer: Seconds = 0.0
    communication: Seconds = 0.0
    waiting: Seconds = 0.0
    overhead: Seconds = 0.0

    @property
    def step(self) -> Seconds:
        """The whole step."""
        return (
            self.forward + self.backward + self.recompute + self.optimizer
            + self.communication + self.waiting + self.overhead
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryBreakdown:
    """Peak memory of the fullest worker (B); the items add up to the peak."""

    context: Bytes = 0
    parameters: Bytes = 0
    gradients: Bytes = 0
    optimizer: Bytes = 0
    activations: Bytes = 0
    transient: Bytes = 0
    buffers: Bytes = 0
    batch: Bytes = 0
    communication: Bytes = 0
    allocator: Bytes = 0

    @property
    def peak(self) -> Bytes:
        """The whole worker."""
        return (
            self.context + self.parameters + self.gradients + self.optimizer + self.activations
            + self.transient + self.buffers + self.batch + self.communication + self.allocator
        )  # fmt: skip

    def scaled(self, factor: float) -> "MemoryBreakdown":
        """Every item times a factor."""
        if factor == 1:
            return self
        return MemoryBreakdown(**{item.name: round(getattr(self, item.name) * factor) for item in fields(self)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Collective:
    """One kind of exchange in a step.

    Args:
        name: which collective.
        axis: mesh axis it runs along.
        count: calls per step.
        size: payload per step of one worker (B).
        duration: time per step, hidden or not (s).
    """

    name: str
    axis: str
    count: int
    size: Bytes
    duration: Seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTime:
    """What a stage of a pipeline takes for one micro-batch.

    Args:
        forward: with the exchanges in it (s).
        backward: likewise, recomputation included (s).
        transfer: carrying the activations from the stage before, or their gradients back (s).
    """

    forward: Seconds
    backward: Seconds
    transfer: Seconds = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """A plan's expected time, memory, energy and money per step.

    Args:
        basis: `model` (computed from the machine's rates) or `trial` (its step was timed before).
        rates: where those rates come from.
        time: where the step's time goes.
        low: the step is faster than this in 5 % of cases (s).
        high: the step is slower than this in 5 % of cases (s).
        memory: of the fullest worker.
        collectives: per step.
        flops: FLOP of one step over all workers.
        energy: per step (J); 0 where unknown.
        money: per step ($); 0 where unknown.
        start: time once, before the first step: compiling, applying (s).
        stages: of the pipeline, in order; empty without one.
        loading: of a step's batches, beside the step before (s); 0 where it is not known how fast hosts load them.
    """

    basis: str = "model"
    rates: RateSource = "measured"
    time: TimeBreakdown
    low: Seconds
    high: Seconds
    memory: MemoryBreakdown
    collectives: tuple[Collective, ...] = ()
    flops: float = 0.0
    energy: Joules = 0.0
    money: Dollars = 0.0
    start: Seconds = 0.0
    stages: tuple[StageTime, ...] = ()
    loading: Seconds = 0.0
