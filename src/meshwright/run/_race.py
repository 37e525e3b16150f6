"""A race between strategies on a machine whose load drifts: rounds of short heats, the clearly slower dropped.

Times of different rounds are never compared: within a round each runner's median is set against the round's level, and
only these ratios are carried over. Successive halving (Jamieson and Talwalkar, 2016), with ratios for scores.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

from meshwright.plan import TrialResult
from meshwright.units import Bytes, Seconds

# How far behind the best a runner may be and still run in the next round; the last holds for all further rounds.
_MARGINS = (1.25, 1.12, 1.06)
_MOST_ROUNDS = 8
# A heat warms up once and times two steps at least.
_LEAST_STEPS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Heat:
    """A few timed steps of one strategy.

    Args:
        durations: of the steps (s).
        memory: peak of the fullest worker (B); 0 where it was not measured.
        failure: what kept it from running; empty where it ran.
    """

    durations: tuple[Seconds, ...] = ()
    memory: Bytes = 0
    failure: str = ""


def race(
    count: int,
    heat: Callable[[int, Seconds], Heat],
    *,
    budget: Seconds,
    clock: Callable[[], Seconds] = time.monotonic,
) -> dict[int, TrialResult]:
    """Runs heats until one runner is left or the time is spent.

    Args:
        count: runners, numbered from 0, the most promising first.
        heat: runs one of them for about so long (s).
        budget: of all heats together; one heat may overrun it (s).
        clock: what time it is (s).

    Returns:
        Results by number; runners that the time did not reach are missing.
    """
    end = clock() + budget
    field, rounds, failures = list(range(count)), [], {}
    while field and len(rounds) < _MOST_ROUNDS and clock() < end:
        share = (end - clock()) / (2 * len(field))
        heats: dict[int, Heat] = {}
        for runner in field:
            if heats and clock() >= end:
                break
            heats[runner] = heat(runner, share)
        failures |= {runner: result.failure for runner, result in heats.items() if result.failure}
        ran = {runner: result for runner, result in heats.items() if not result.failure}
        if not ran or (rounds and len(heats) < len(field)):
            break
        rounds.append(ran)
        field = _survivors(ran, _MARGINS[min(len(rounds), len(_MARGINS)) - 1])[::-1]
        shortest_round = _LEAST_STEPS * sum(median(ran[runner].durations) for runner in field)
        if len(field) == 1 or clock() + shortest_round > end:
            break
    results = {runner: _result(runner, rounds) for runner in (rounds[0] if rounds else ())}
    return results | {runner: TrialResult(step=0.0, failure=reason) for runner, reason in failures.items()}


def beside(known: TrialResult, pair: dict[int, TrialResult]) -> TrialResult:
    """A late runner's result at the level of an earlier race.

    Args:
        known: the earlier result of the runner that it ran beside.
        pair: how the two did now: 0, the one that is known; 1, the late one.
    """
    late, again = pair.get(1), pair.get(0)
    if late is None or again is None or late.failure or again.failure:
        reason = next((result.failure for result in (late, again) if result is not None and result.failure), "")
        return TrialResult(step=0.0, failure=reason or "it did not come to an end")
    level = known.step / again.step
    return replace(late, step=late.step * level, low=late.low * level, high=late.high * level)


def _survivors(heats: dict[int, Heat], margin: float) -> list[int]:
    best = min(median(result.durations) for result in heats.values())
    return [runner for runner, result in heats.items() if median(result.durations) <= best * margin]


def _result(runner: int, rounds: list[dict[int, Heat]]) -> TrialResult:
    """A runner's step at the typical level of the rounds; a round's level is the median of those who ran to the end."""
    last = rounds[-1]
    levels = [median(median(heats[each].durations) for each in last) for heats in rounds]
    typical = median(levels)
    own = [(heats[runner], level) for heats, level in zip(rounds, levels, strict=True) if runner in heats]
    ratios = sorted(duration / level for heat, level in own for duration in heat.durations)
    step = typical * median(median(heat.durations) / level for heat, level in own)
    enough = len(ratios) >= 5
    return TrialResult(
        step=step,
        low=min(step, typical * ratios[len(ratios) // 20]) if enough else 0.0,
        high=max(step, typical * ratios[-1 - len(ratios) // 20]) if enough else 0.0,
        memory=max(heat.memory for heat, _ in own),
    )
