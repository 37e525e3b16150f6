"""What a layout costs: the parts of a search's objective."""

from dataclasses import dataclass

from meshwright.cost._prediction import Collective, MemoryBreakdown, TimeBreakdown
from meshwright.units import Dollars, Joules, Seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """What a layout costs.

    Args:
        time: of the worker that ends last.
        memory: of each worker of the pipeline, the fullest of its kinds.
        collectives: of the worker that ends last.
        energy: per step (J).
        money: per step ($).
        steps: to a loss, over those of exact training.
        loading: of a step's batches, beside the step before (s); 0: not known.
    """

    time: TimeBreakdown
    memory: tuple[MemoryBreakdown, ...]
    collectives: tuple[Collective, ...]
    energy: Joules
    money: Dollars
    steps: float = 1.0
    loading: Seconds = 0.0

    @property
    def step(self) -> Seconds:
        """The whole step."""
        return self.time.step

    @property
    def pace(self) -> Seconds:
        """Time for as much progress as an exact step makes."""
        return self.time.step * self.steps

    @property
    def peak(self) -> int:
        """Of the fullest worker (B)."""
        return max(items.peak for items in self.memory)
