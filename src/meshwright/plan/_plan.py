"""A plan: a strategy, its prediction, and what else was considered."""

from dataclasses import dataclass, field

from meshwright.cost import Allowance, MemoryBreakdown, Prediction, Strategy
from meshwright.hardware import Correction
from meshwright.plan._goal import Objective
from meshwright.plan._target import Target
from meshwright.units import Bytes, Dollars, Joules, Seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A plan that was considered.

    Args:
        summary: its choices in a line.
        step: predicted (s); 0 where it was never priced.
        memory: predicted peak of the fullest worker (B).
        trial: measured in a throw-away process (s); 0 where it was not tried.
        reason: why it was not chosen; empty for the chosen one.
        fits: whether it fits the memory and the limits on the run.
        value: what was made small, such as the time to a loss; 0: not known.
    """

    summary: str
    step: float = 0.0
    memory: Bytes = 0
    trial: float = 0.0
    reason: str = ""
    fits: bool = True
    value: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontPoint:
    """A layout that no other one beats in time, money and memory at once.

    Args:
        summary: its choices in a line.
        workers: devices in use.
        step: predicted (s).
        memory: predicted peak of the fullest worker (B).
        energy: per step (J).
        money: per step ($).
    """

    summary: str
    workers: int
    step: Seconds
    memory: Bytes
    energy: Joules
    money: Dollars


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStage:
    """What is in a stage of the pipeline.

    Args:
        worker: of the pipeline.
        first: module that it begins with; empty for the model's beginning.
        blocks: repeated blocks in it.
        recomputed: of them, those whose activations are computed again.
        memory: predicted peak of a worker that has it (B).
        moment: when that is: in the `loss` of the last forward, in a `backward`, or in the `update`; empty: not known.
    """

    worker: int
    first: str
    blocks: int
    recomputed: int
    memory: Bytes
    moment: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankMemory:
    """What workers hold that follow one another by rank and hold the same.

    Args:
        first: rank of the first of them.
        last: rank of the last.
        device: name of what each stands on.
        memory: predicted peak of each, item by item.
        moment: when that is, as in `PlannedStage`.
        capacity: what each one's device has for it (B).
    """

    first: int
    last: int
    device: str
    memory: MemoryBreakdown
    moment: str
    capacity: Bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A strategy, its prediction, why it was chosen, and what else was considered.

    Args:
        model: class name of the model it was made for.
        strategy: every decision.
        prediction: of the strategy on the cluster.
        allow: departures from the user's mathematics that the user allowed.
        minimize: what was made small.
        memory_limit: what a worker may use (B).
        capacity: what its device has for it (B); 0: not known.
        binding: what keeps the step from being faster, in a sentence with numbers.
        flips: what would change the choice, each in a sentence with numbers.
        candidates: everything considered, the chosen one first.
        origins: where each choice comes from, by its name in `Pins`: `default`, `measured`, `file`, `command line`.
        cluster: name and identity of the cluster it was made for.
        gap: by what share of its value a layout that was only bounded could at most be better; 0: none can.
        front: layouts that are best in some weighing of time, money and memory, fastest first.
        stages: of the pipeline, or the whole model.
        held: what every worker holds, in the order of ranks.
        tokens: that a step trains on; examples where they are no sequences; 0: not known.
        target: what the whole run takes, where its length is known.
        corrections: from earlier runs, that its prices contain, by basis (`model`, `trial`); none where there are none.
        kind: that what its runs take is filed under; empty: nothing is learnt from them.
        load: share of the processor that others used while it was made (0 to 1).
        blocks: paths of the model's repeated blocks, which are sharded, computed again and offloaded one by one.
        uncaptured: constructs that the model's step could not be captured whole for, each with what was done instead.
        gathered: operations without a rule for parts, that every worker of a split model does whole; a sentence each.
    """

    model: str
    strategy: Strategy
    prediction: Prediction
    allow: tuple[Allowance, ...] = ()
    minimize: Objective = "time"
    memory_limit: Bytes = 0
    capacity: Bytes = 0
    binding: str = ""
    flips: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    origins: dict[str, str] = field(default_factory=dict)
    cluster: str = ""
    gap: float = 0.0
    front: tuple[FrontPoint, ...] = ()
    stages: tuple[PlannedStage, ...] = ()
    held: tuple[RankMemory, ...] = ()
    tokens: float = 0.0
    target: Target | None = None
    corrections: dict[str, Correction] = field(default_factory=dict)
    kind: str = ""
    load: float = 0.0
    blocks: tuple[str, ...] = ()
    uncaptured: tuple[str, ...] = ()
    gathered: tuple[str, ...] = ()
