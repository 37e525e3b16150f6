"""How long workers train apart before they agree."""

from dataclasses import dataclass
from math import log2
from typing import Literal

UpdatesKind = Literal["local", "asynchronous", "shared"]
# Seen here with an interval of 16 steps: 0.5 ends where exact steps do, 0.9 far behind; with 64 steps 0.9 is right.
_MOMENTUM_AT_16, _MOMENTUM_PER_DOUBLING, _MOST_MOMENTUM = 0.5, 0.2, 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class Updates:
    """Steps that workers do apart, each on its share of the batch, and how their ways are brought together.

    Args:
        kind: `local`: islands agree every `interval` steps, on the average of their ways, to which an outer optimizer
            with Nesterov momentum goes (DiLoCo; with momentum 0 and rate 1 it is local SGD). `asynchronous`: each
            island hands its way to a server on worker 0's host when it is ready, and nobody waits for the others.
            `shared`: all workers of one host update the same memory without locks (Hogwild).
        islands: groups of workers that agree in every step; they divide `dp_replicate`.
        interval: steps between two meetings.
        rate: of the outer optimizer.
        momentum: of the outer optimizer (0 to 1).
        fragments: parts of the model that meet one after another, spread over the interval.
        delay: steps that the islands go on while a meeting is under way; less than `interval / fragments`.
        staleness: meetings of others after which an island's way counts for less; `asynchronous` only.
        check_every: meetings between two comparisons with exact steps, or with a worker alone; 0: never.
        tolerance: most of what exact steps gain in an interval that may be missing (0 to 1); beyond it, islands meet
            more often.
    """

    kind: UpdatesKind
    islands: int = 2
    interval: int = 16
    rate: float = 0.7
    momentum: float = 0.5
    fragments: int = 1
    delay: int = 0
    staleness: int = 4
    check_every: int = 128
    tolerance: float = 0.5

    @property
    def summary(self) -> str:
        """The choice in a few words."""
        if self.kind == "shared":
            return "shared parameters"
        return f"{self.kind} updates of {self.interval} steps"


def suited_momentum(interval: int) -> float:
    """The outer momentum for an interval: long ways forget more between two meetings, so that it has to grow."""
    wanted = _MOMENTUM_AT_16 + _MOMENTUM_PER_DOUBLING * (log2(interval) - 4)
    return min(_MOST_MOMENTUM, max(0.0, wanted))
