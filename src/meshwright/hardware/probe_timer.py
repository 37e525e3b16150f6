"""How long a piece of work takes: the median of as many repeats as a small budget of time allows."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from meshwright.units import Seconds

FEWEST_SAMPLES = 3
MOST_SAMPLES = 100
PATIENCE = 3  # budgets that may be spent to get the fewest samples


def nothing() -> None:
    """Waits for nobody."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timer:
    """Times work; the median, because it is what a step meets under the load there is.

    Args:
        budget: time to spend on one piece of work (s).
        shortest: quicker work is repeated for so long before the clock is read again (s); a thousand times what
            reading it costs on a processor, more where waiting for a device costs more.
        together: returns when all processes that measure at the same time are ready to begin.
        finished: returns when the device has done all work given to it.
    """

    budget: Seconds
    shortest: Seconds = 50e-6
    together: Callable[[], object] = nothing
    finished: Callable[[], object] = nothing

    def __call__(self, work: Callable[[], object]) -> Seconds:
        """Median duration of one call of `work` (s)."""
        work()
        self.finished()
        self.together()
        start = perf_counter()
        once = self.sample(work, 1)
        repeats = max(1, int(self.shortest / max(once, 1e-9)))
        samples = [once] if repeats == 1 else [self.sample(work, repeats)]
        while len(samples) < MOST_SAMPLES:
            spent = perf_counter() - start
            if spent > PATIENCE * self.budget or (spent > self.budget and len(samples) >= FEWEST_SAMPLES):
                break
            samples.append(self.sample(work, repeats))
        return median(samples)

    def sample(self, work: Callable[[], object], repeats: int) -> Seconds:
        """Mean duration of one of `repeats` calls (s)."""
        start = perf_counter()
        for _ in range(repeats):
            work()
        self.finished()
        return (perf_counter() - start) / repeats
