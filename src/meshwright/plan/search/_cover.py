"""Which blocks to compute again so that a worker fits its memory: the least extra time that frees enough.

One kind of block needs counting only; equal costs are filled from the largest saving; anything else is an integer
program, which HiGHS solves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Blocks of one kind in one stage.

    Args:
        available: how many there are.
        saved: bytes that one of them frees when it is computed again.
        cost: time that it then takes (s).
        whole: bytes of its activations, which come back while its backward runs.
    """

    available: int
    saved: float
    cost: float
    whole: float


def cheapest_cover(choices: Sequence[Choice], missing: float) -> tuple[int, ...] | None:
    """How many of each to compute again so that `missing` bytes are freed; None where all together are not enough.

    The largest chosen block's activations are there once more, so each possible size of it is tried.

    Args:
        missing: bytes over the limit.
    """
    if missing <= 0:
        return (0,) * len(choices)
    best: tuple[float, tuple[int, ...]] | None = None
    for largest in sorted({choice.whole for choice in choices}):
        allowed = [choice if choice.whole <= largest and choice.saved > 0 else None for choice in choices]
        counts = _least(allowed, missing + largest)
        if counts is None:
            continue
        cost = sum(count * choice.cost for count, choice in zip(counts, choices, strict=True))
        if best is None or cost < best[0]:
            best = cost, counts
    return best[1] if best is not None else None


def _least(choices: Sequence[Choice | None], missing: float) -> tuple[int, ...] | None:
    usable = [(place, choice) for place, choice in enumerate(choices) if choice is not None and choice.available]
    if sum(choice.available * choice.saved for _, choice in usable) < missing:
        return None
    counts = [0] * len(choices)
    if len({choice.cost for _, choice in usable}) == 1:
        for place, choice in sorted(usable, key=lambda pair: -pair[1].saved):
            counts[place] = min(choice.available, max(0, ceil(missing / choice.saved - 1e-9)))
            missing -= counts[place] * choice.saved
        return tuple(counts)
    solved = _integer_program([choice for _, choice in usable], missing)
    for (place, _), count in zip(usable, solved, strict=True):
        counts[place] = count
    return tuple(counts)


def _integer_program(choices: Sequence[Choice], missing: float) -> list[int]:
    """Minimises cost · count subject to saved · count ≥ missing, by HiGHS."""
    import highspy

    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("mip_rel_gap", 0.0)
    scale = max(choice.cost for choice in choices) or 1.0
    counts = [
        solver.addIntegral(lb=0, ub=choice.available, obj=choice.cost / scale) for choice in choices
    ]  # fmt: skip
    freed = solver.qsum((choice.saved / missing) * count for choice, count in zip(choices, counts, strict=True))
    solver.addConstr(freed >= 1.0)
    solver.minimize()
    found = np.round(solver.getSolution().col_value).astype(int).tolist()
    # A solver's tolerance may leave a byte over: one more of whatever is left makes up for it.
    for place, choice in enumerate(choices):
        short = missing - sum(one.saved * count for one, count in zip(choices, found, strict=True))
        if short > 1e-6 * missing and found[place] < choice.available:
            found[place] += min(choice.available - found[place], ceil(short / choice.saved))
    return found
