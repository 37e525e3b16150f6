"""What a short race of one strategy measured."""

from dataclasses import dataclass

from meshwright.units import Bytes, Seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialResult:
    """Steps of one strategy, run in throw-away processes.

    Args:
        step: median of its steps (s); 0 where it failed.
        low: 5th percentile (s); 0 where too few were run.
        high: 95th percentile (s); 0 where too few were run.
        memory: peak of the fullest worker (B); 0 where it was not measured.
        failure: the error that it ended in; empty where it ran.
    """

    step: Seconds
    low: Seconds = 0.0
    high: Seconds = 0.0
    memory: Bytes = 0
    failure: str = ""
