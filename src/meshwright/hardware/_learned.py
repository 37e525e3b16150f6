r"""What the next prediction is multiplied by, from what earlier runs of its kind took.

Ratios of times are spread like a log-normal, so they are weighed as logarithms. A run counts by how near its load was
to another, $w = \max(0, 1 - |\Delta\text{load}| / 0.1)$: for a trial, which has seen a load, to that of its own time;
for the model's price, which knows of none, to the load now.
The correction is the weighted median, with the uncorrected prediction as one run more: one odd run moves the next
prediction at most half its way, and among many it moves nothing.
"""

from collections.abc import Sequence
from math import exp, log, sqrt

from meshwright.hardware._correction import Correction
from meshwright.hardware._outcome import Outcome, recorded_outcomes

# An older run says less about the machine as it is now: drivers, neighbours and libraries change.
RECENT = 20
# A tenth of the processor taken by others makes steps about a tenth longer, which is as far as a prediction may be off.
LIKE_LOAD = 0.1
# Of the weight of one run: what is as near as this to the middle of all is the middle, too.
AROUND = 0.25
# What is further off than this has another cause than rates that err: swapping, a debugger, another program's memory.
FURTHEST_TIME = 4.0
FURTHEST_MEMORY = 1.5


def correction(identity: str, kind: str, *, basis: str = "model", load: float = 0.0) -> Correction:
    """What to multiply a prediction by, from the recent outcomes of the same kind on this machine.

    The default spread counts as one outcome more, so that two runs that happen to agree do not promise certainty.
    Memory does not depend on the load, so all runs of the kind count for it.

    Args:
        identity: of the machine.
        kind: of the prediction, as its outcomes were recorded.
        basis: `model` or `trial`, which err differently.
        load: share of the processor that others use now (0 to 1).

    Returns:
        The default where there is no outcome of this kind under a like load.
    """
    same = [outcome for outcome in recorded_outcomes(identity) if (outcome.kind, outcome.basis) == (kind, basis)]
    times = [
        (_error(outcome.measured_step, outcome.predicted_step, outcome.applied.time, most=FURTHEST_TIME), weight)
        for outcome in same
        if min(outcome.measured_step, outcome.predicted_step) > 0 and (weight := _weight(outcome, load)) > 0
    ][-RECENT:]
    memories = [
        (_error(outcome.measured_memory, outcome.predicted_memory, outcome.applied.memory, most=FURTHEST_MEMORY), 1.0)
        for outcome in same
        if min(outcome.measured_memory, outcome.predicted_memory) > 0
    ][-RECENT:]
    default, center = Correction(), _center(times)
    deviations = sum(weight * (value - center) ** 2 for value, weight in times)
    total = sum(weight for _, weight in times)
    return Correction(
        time=exp(center),
        spread=sqrt((default.spread**2 + deviations) / (1 + total)),
        memory=exp(_center(memories)),
    )


def _error(measured: float, predicted: float, applied: float, *, most: float) -> float:
    """ln(measured / predicted), the correction taken out of the prediction, within reason."""
    return min(log(most), max(-log(most), log(measured * applied / predicted)))


def _weight(outcome: Outcome, load: float) -> float:
    """How much an outcome says about a prediction now (0 to 1)."""
    known = outcome.planned_load if outcome.basis == "trial" else load
    return max(0.0, 1 - abs(outcome.load - known) / LIKE_LOAD)


def _center(values: Sequence[tuple[float, float]]) -> float:
    """The weighted median of the values and of 0, which weighs 1.

    It is the mean over what lies within `AROUND` of the middle of all weight, so that an outcome that weighs a little
    less than the uncorrected price moves it a little less than half its way, not nothing.
    """
    ordered = sorted([*values, (0.0, 1.0)])
    half = sum(weight for _, weight in ordered) / 2
    reached = total = 0.0
    for value, weight in ordered:
        total += value * max(0.0, min(reached + weight, half + AROUND) - max(reached, half - AROUND))
        reached += weight
    return total / (2 * AROUND)
