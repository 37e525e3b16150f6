"""What a run measured, item by item as its prediction had it."""

from dataclasses import dataclass

from meshwright.cost._prediction import TimeBreakdown
from meshwright.units import Bytes, Seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRecord:
    """One line of `metrics.jsonl`.

    Args:
        step: number, from 1.
        loss: global mean loss.
        duration: of this step (s).
        samples_per_second: global examples over the duration, data loading included.
        grad_norm: global gradient norm; 0 where it was not computed.
        memory: peak of this worker so far (B).
        elapsed: since the first step began (s).
        time: where this step's time went.
    """

    step: int
    loss: float
    duration: Seconds
    samples_per_second: float
    grad_norm: float = 0.0
    memory: Bytes = 0
    elapsed: Seconds = 0.0
    time: TimeBreakdown = TimeBreakdown()


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """A run in sum.

    Args:
        status: `finished`, `interrupted` or `failed`.
        steps: steps done.
        step: median of a step, the first ones left out (s).
        low: 5th percentile (s).
        high: 95th percentile (s).
        time: medians of where the time went.
        memory: peak of the fullest worker (B).
        memory_by_rank: peak of each worker (B).
        reason: what ended it, unless finished.
    """

    status: str
    steps: int
    step: Seconds
    low: Seconds
    high: Seconds
    time: TimeBreakdown
    memory: Bytes
    memory_by_rank: tuple[Bytes, ...] = ()
    reason: str = ""
