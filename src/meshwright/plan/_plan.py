"""A plan: a strategy, its prediction, and what else was considered."""

from dataclasses import dataclass, field

from meshwright.cost import Allowance, Prediction, Strategy
from meshwright.units import Bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A plan that was considered.

    Args:
        summary: its choices in a line.
        step: predicted (s); 0 where it was never priced.
        memory: predicted peak of the fullest worker (B).
        trial: measured in a throw-away process (s); 0 where it was not tried.
        reason: why it was not chosen; empty for the chosen one.
        fits: whether its memory fits.
    """

    summary: str
    step: float = 0.0
    memory: Bytes = 0
    trial: float = 0.0
    reason: str = ""
    fits: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A strategy, its prediction, why it was chosen, and what else was considered.

    Args:
        model: class name of the model it was made for.
        strategy: every decision.
        prediction: of the strategy on the cluster.
        allow: departures from the user's mathematics that the user allowed.
        memory_limit: what a worker may use (B).
        capacity: what its device has for it (B); 0: not known.
        binding: what keeps the step from being faster, in a sentence with numbers.
        flips: what would change the choice, each in a sentence with numbers.
        candidates: everything considered, the chosen one first.
        origins: where each choice comes from, by its name in `Pins`: `default`, `measured`, `file`, `command line`.
        cluster: name and identity of the cluster it was made for.
    """

    model: str
    strategy: Strategy
    prediction: Prediction
    allow: tuple[Allowance, ...] = ()
    memory_limit: Bytes = 0
    capacity: Bytes = 0
    binding: str = ""
    flips: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    origins: dict[str, str] = field(default_factory=dict)
    cluster: str = ""
