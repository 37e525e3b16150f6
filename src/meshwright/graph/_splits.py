"""What splitting a model over workers would do to its step: what is divided, what is exchanged, where it can be cut.

Filled in by the capture from the program that would run, or derived from the operations alone (`_derived_splits`) for
hardware that is not here. Everything is counted for one micro-batch before any split, so that a degree divides it.
"""

from dataclasses import dataclass
from typing import Literal

from meshwright.graph._linear import Linear

Phase = Literal["forward", "backward"]
ExchangeName = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitParameter:
    """A parameter of which each worker of an axis holds a part.

    Args:
        path: its first path.
        dim: the dim that is split.
        groups: how many equally long ranges of the dim are split one by one; 3 for a fused query, key and value.
    """

    path: str
    dim: int
    groups: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitExchange:
    """A collective that a split adds to the step.

    Args:
        name: which collective.
        phase: forward or backward.
        module: path of the module at which it happens; of a repeated block, that of the instance captured.
        size: of the whole tensor, as `CollectiveRate` counts it; for `send` of one worker's message times the
            degree (B).
        count: calls of one instance per micro-batch.
        repeats: how many equal instances (of a repeated block) have it.
    """

    name: ExchangeName
    phase: Phase
    module: str
    size: Linear
    count: int = 1
    repeats: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSplit:
    """What tensor parallelism would do.

    Args:
        degrees: legal ones, 1 left out: those that divide heads, vocabulary and widths.
        parameters: those that are split; all others stay whole.
        operations: indices of the operations of which a worker does 1/degree.
        sequence_operations: those of which it does 1/degree when the sequence is split between them; empty where it
            cannot be.
        whole: exchanges with the sequence whole.
        split: exchanges with the sequence split; empty where it cannot be.
    """

    degrees: tuple[int, ...]
    parameters: tuple[SplitParameter, ...]
    operations: tuple[int, ...]
    sequence_operations: tuple[int, ...] = ()
    whole: tuple[SplitExchange, ...] = ()
    split: tuple[SplitExchange, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextSplit:
    """What splitting the sequence of every example would do.

    Args:
        degrees: legal ones, 1 left out.
        operations: indices of the operations of which a worker does 1/degree.
        ring: exchanges when keys and values go round, and where attention is causal positions before and after.
        all_to_all: exchanges when heads are handed out for the sequence; empty where heads cannot be.
        all_to_all_degrees: the degrees at which they can be.
    """

    degrees: tuple[int, ...]
    operations: tuple[int, ...]
    ring: tuple[SplitExchange, ...] = ()
    all_to_all: tuple[SplitExchange, ...] = ()
    all_to_all_degrees: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertSplit:
    """What spreading the experts of mixture layers would do; a worker then computes other workers' tokens too.

    Args:
        degrees: legal ones, 1 left out: those that divide the number of experts.
        parameters: the experts'.
        exchanges: tokens to the experts and back, forward and backward.
    """

    degrees: tuple[int, ...]
    parameters: tuple[SplitParameter, ...]
    exchanges: tuple[SplitExchange, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """A point at which a stage of a pipeline may begin.

    Args:
        path: of the module whose first operation begins the stage.
        size: what crosses to the stage in the forward; as much comes back in the backward (B).
    """

    path: str
    size: Linear


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """Every way in which the model itself can be split; None where it cannot.

    Args:
        tensor: over `tp`.
        context: over `cp`.
        expert: over `ep`.
        cuts: legal beginnings of stages, in the order of execution; the first stage begins by itself.
    """

    tensor: TensorSplit | None = None
    context: ContextSplit | None = None
    expert: ExpertSplit | None = None
    cuts: tuple[Cut, ...] = ()
