"""Which worker keeps the optimizer's state of which parameter."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from meshwright.units import Bytes


def owners(sizes: Sequence[Bytes], shares: Sequence[int]) -> list[int]:
    """Gives each parameter to a worker, in consecutive runs of about as many bytes as its share asks for.

    Runs, because gradients of neighbours are complete at about the same time and travel together.

    Args:
        sizes: of the parameters (B); 0 for one without state.
        shares: of the workers, relative.

    Returns:
        A worker for each parameter.
    """
    whole, ends = max(1, sum(sizes)), list(accumulate(shares))
    chosen, start = [], 0
    for size in sizes:
        middle = start + size / 2
        chosen.append(min(len(ends) - 1, bisect_right(ends, ends[-1] * middle / whole)))
        start += size
    return chosen
