"""What was decided about a program on an axis."""

from dataclasses import dataclass
from typing import Literal

from meshwright.cost import Placement
from meshwright.parallel.tensor._layout import Layout
from meshwright.parallel.tensor._operation import Choice
from meshwright.units import Bytes, Seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """Equal collectives of one micro-batch.

    Args:
        name: all_reduce, all_gather, reduce_scatter or all_to_all.
        phase: forward or backward.
        module: path of the module that reads the result.
        size: of the whole tensor (B).
        count: how many.
    """

    name: str
    phase: str
    module: str
    size: Bytes
    count: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """A layout for everything in a program, as plain data.

    Args:
        axis: which axis.
        degree: workers on it.
        placements: parameters and buffers that are split, by their first names.
        sequence: whether activations between split regions are split along the sequence.
        choices: how each node is done, by its name.
        exchanges: collectives of one micro-batch.
        notes: what could not be split, and why, for the user.
        gathered: operations that have no rule, whose operands are split and gathered for them; for the user.
        time: predicted communication and work of one micro-batch (s).
    """

    axis: Literal["tp", "ep"] = "tp"
    degree: int
    placements: tuple[Placement, ...]
    sequence: Literal["whole", "split"]
    choices: dict[str, Choice]
    exchanges: tuple[Exchange, ...] = ()
    notes: tuple[str, ...] = ()
    gathered: tuple[str, ...] = ()
    time: Seconds = 0.0

    def layout(self, name: str) -> Layout:
        """How a parameter, buffer or input lies, by the name of its node."""
        return self.choices[name].results[0]

    @property
    def splits_nothing(self) -> bool:
        """Whether every worker does everything."""
        return not any(choice.divided for choice in self.choices.values() if choice.operands)
