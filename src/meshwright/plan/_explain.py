"""Why this plan: what binds, what takes the memory and the time, what comes next and what would flip the choice."""

from dataclasses import dataclass, fields

from meshwright.cost import MemoryBreakdown, RateSource, TimeBreakdown, convergence
from meshwright.cost.memory import conventions, failure_probability
from meshwright.plan._goal import Pins
from meshwright.plan._plan import Candidate, Plan
from meshwright.plan._priced import choice
from meshwright.units import Bytes, Seconds, format_bytes, format_seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """One choice of a plan.

    Args:
        name: as in `Pins`.
        value: what was chosen, as text.
        origin: `default`, `measured`, `file` or `command line`.
    """

    name: str
    value: str
    origin: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """A plan's reasons, each with its numbers.

    Args:
        model: class name.
        summary: the chosen strategy in a line.
        basis: whether its time is from the `model` or a `trial`.
        rates: where the model's rates come from, as in `Prediction`.
        step: time of a step (s).
        low: 5 % of steps are faster (s).
        high: 5 % of steps are slower (s).
        binding: what keeps the step from being faster.
        decisions: every choice and where it comes from.
        time: where the step's time goes, longest first (s).
        memory: what the fullest worker holds, largest first (B).
        memory_limit: what it may use (B).
        next_best: the best of the others that fit, by what was made small; None where there is none.
        margin: by how much the next best is slower (s).
        rejected: all others, each with its reason.
        flips: what would change the choice.
        overflow: probability that the fullest worker runs out of memory (0 to 1).
        convergence: what departures from exact steps do, how stale what is, and what watches over them.
    """

    model: str
    summary: str
    basis: str
    rates: RateSource
    step: Seconds
    low: Seconds
    high: Seconds
    binding: str
    decisions: tuple[Decision, ...]
    time: tuple[tuple[str, Seconds], ...]
    memory: tuple[tuple[str, Bytes], ...]
    memory_limit: Bytes
    next_best: Candidate | None
    margin: Seconds
    rejected: tuple[Candidate, ...]
    flips: tuple[str, ...]
    overflow: float = 0.0
    convergence: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanDifference:
    """One thing in which two plans differ.

    Args:
        name: what.
        first: of the first plan, as text.
        second: of the second plan, as text.
    """

    name: str
    first: str
    second: str


def explain(plan: Plan) -> Explanation:
    """The reasons of a plan, from the plan alone."""
    prediction = plan.prediction
    chosen, rejected = plan.candidates[:1], plan.candidates[1:]
    step = chosen[0].trial or chosen[0].step if chosen else prediction.time.step
    # Trials compare with trials, predictions with predictions; where there was a trial, the next best was in it.
    tried = [item for item in rejected if item.fits and item.trial] if chosen and chosen[0].trial else []
    fitting = tried or [item for item in rejected if item.fits]
    next_best = min(fitting, key=lambda item: item.value or item.trial or item.step, default=None)
    against = step if tried or not chosen else chosen[0].step
    return Explanation(
        model=plan.model,
        summary=plan.strategy.summary,
        basis=prediction.basis,
        rates=prediction.rates,
        step=prediction.time.step,
        low=prediction.low,
        high=prediction.high,
        binding=plan.binding,
        decisions=tuple(
            Decision(
                name=item.name, value=str(choice(plan.strategy, item.name)), origin=plan.origins.get(item.name, "")
            )
            for item in fields(Pins)
        ),
        time=_largest_first({item.name: getattr(prediction.time, item.name) for item in fields(TimeBreakdown)}),
        memory=_largest_first({item.name: getattr(prediction.memory, item.name) for item in fields(MemoryBreakdown)}),
        memory_limit=plan.memory_limit,
        next_best=next_best,
        margin=(next_best.trial or next_best.step) - against if next_best else 0.0,
        rejected=rejected,
        flips=plan.flips,
        overflow=overflow(plan),
        convergence=tuple(convergence(plan.strategy)),
    )


def difference(first: Plan, second: Plan) -> tuple[PlanDifference, ...]:
    """Every choice and every predicted item in which two plans differ."""
    ours, theirs = _texts(first), _texts(second)
    return tuple(
        PlanDifference(name=name, first=text, second=theirs[name])
        for name, text in ours.items()
        if text != theirs[name]
    )


def overflow(plan: Plan) -> float:
    """How likely memory runs out, by how far predictions of such devices were off."""
    if not plan.capacity:
        return 0.0
    on_processor = all(worker.device == "cpu" for worker in plan.strategy.workers)
    own = conventions("meshwright-cpu" if on_processor else "meshwright")
    return failure_probability(plan.prediction.memory.peak, plan.capacity, own)


def _texts(plan: Plan) -> dict[str, str]:
    """Every choice and every predicted item of a plan, as text, by name."""
    time, memory = plan.prediction.time, plan.prediction.memory
    return {
        "model": plan.model,
        **{item.name: str(choice(plan.strategy, item.name)) for item in fields(Pins)},
        "step": format_seconds(time.step),
        **{item.name + " time": format_seconds(getattr(time, item.name)) for item in fields(TimeBreakdown)},
        "memory": format_bytes(memory.peak),
        **{item.name + " memory": format_bytes(getattr(memory, item.name)) for item in fields(MemoryBreakdown)},
        "binding": plan.binding,
    }


def _largest_first(items: dict[str, float]) -> tuple:
    return tuple(sorted(((name, size) for name, size in items.items() if size), key=lambda pair: -pair[1]))
