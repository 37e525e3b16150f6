"""How the model itself is split: parameters over an axis, blocks over the pipeline."""

from dataclasses import dataclass
from typing import Literal

Schedule = Literal["gpipe", "1f1b", "interleaved", "zero_bubble", "asynchronous"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """A parameter of which every worker along an axis holds a part.

    Args:
        parameter: its first path in the model.
        axis: `tp`, or `ep` for experts.
        dim: the dim that is split.
        groups: how many equally long ranges of the dim are split one by one; 3 for a fused query, key and value.
    """

    parameter: str
    axis: Literal["tp", "ep"]
    dim: int
    groups: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Pipeline:
    """Stages in the order of execution, and who computes what when.

    Args:
        schedule: order of the micro-batches' forwards and backwards; `asynchronous` does not empty the pipeline between
            steps, so that early stages are updated late, with what they computed before other updates.
        cuts: path of the module whose first operation begins a stage, for every stage but the first; one worker has
            `(len(cuts) + 1) / pp` stages, number `i` belongs to worker `i % pp`.
        check_every: steps between two comparisons with exact steps, where the schedule is `asynchronous`; 0: never.
        tolerance: most of what exact steps gain that may be missing (0 to 1); beyond it, the pipeline is emptied after
            every step.
    """

    schedule: Schedule = "1f1b"
    cuts: tuple[str, ...] = ()
    check_every: int = 1000
    tolerance: float = 0.5

    @property
    def num_stages(self) -> int:
        """Stages over all workers."""
        return len(self.cuts) + 1
