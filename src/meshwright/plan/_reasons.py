"""Why one strategy loses against another, from their predictions item by item and from their trials."""

from meshwright.cost import TimeBreakdown
from meshwright.plan._fit import itemised
from meshwright.plan._priced import Priced
from meshwright.plan._trial_result import TrialResult
from meshwright.units import Seconds, format_bytes, format_seconds

# Items under this share of the step are left out of a reason.
_WORTH_SAYING = 0.01
# From so many times the best step on, how many times says more than a percentage.
_MANY_TIMES = 10


def too_large(item: Priced) -> str:
    """Why a strategy does not fit, with its memory itemised."""
    memory = item.prediction.memory
    return (
        f"needs {format_bytes(memory.peak)} per worker where {format_bytes(item.memory_limit)} may be used: "
        f"{itemised(memory)}"
    )


def slower(item: Priced, chosen: Priced, *, trial: TrialResult | None, best: Seconds) -> str:
    """Why a strategy is not the chosen one.

    Args:
        trial: what was measured of it; None where it was not tried.
        best: step of the chosen one, measured where it was tried (s).
    """
    step = trial.step if trial else item.prediction.time.step
    share = f"{(step - best) / best:.0%}" if step < _MANY_TIMES * best else f"{step / best:.0f} times as long"
    how = "in the trial" if trial else "by prediction"
    more = step - best
    expected = difference_in_items(item, chosen)
    if trial and item.prediction.time.step <= chosen.prediction.time.step and more > 0:
        guess = format_seconds(item.prediction.time.step)
        return f"{format_seconds(more)} ({share}) slower {how}, where the model expected {guess}"
    if more <= 0:
        return f"as fast as the chosen one {how}, which departs less from the script" + _tail(expected)
    return f"{format_seconds(more)} ({share}) slower {how}" + _tail(expected)


def difference_in_items(item: Priced, chosen: Priced) -> str:
    """What a strategy adds to the chosen one's step and what it saves: `exchange of 3.2 MiB over gloo adds 7.1 ms`."""
    ours, theirs = item.prediction.time, chosen.prediction.time
    changes = {
        _exchange_name(item, chosen): ours.communication - theirs.communication,
        "computing": computing(ours) - computing(theirs),
        "recomputation": ours.recompute - theirs.recompute,
        "the update": ours.optimizer - theirs.optimizer,
        "waiting": ours.waiting - theirs.waiting,
        "splitting the batch": ours.overhead - theirs.overhead,
    }
    told = {name: change for name, change in changes.items() if abs(change) >= _WORTH_SAYING * theirs.step}
    ordered = sorted(told.items(), key=lambda pair: -pair[1])
    return ", ".join(
        f"{name} {'adds' if change > 0 else 'saves'} {format_seconds(abs(change))}" for name, change in ordered
    )


def computing(time: TimeBreakdown) -> Seconds:
    """Forward and backward."""
    return time.forward + time.backward


def exchanged_size(item: Priced) -> int:
    """Bytes that one worker exchanges in a step."""
    return sum(collective.size for collective in item.prediction.collectives)


def _exchange_name(item: Priced, chosen: Priced) -> str:
    source = item if item.strategy.num_workers > 1 else chosen
    text = f"exchange of {format_bytes(exchanged_size(source))} over {source.strategy.exchange.transport}"
    return text if source is item else f"no {text}"


def _tail(text: str) -> str:
    return f": {text}" if text else ""
