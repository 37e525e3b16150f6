"""Which rows of a parameter belong to which worker, where workers hold unequal shards."""

from collections.abc import Sequence
from itertools import accumulate


def cuts(length: int, shares: Sequence[int]) -> list[int]:
    """Where the workers' rows begin, and where the last one's end.

    Rounded to the nearest row at every border, so that no worker's part is off by more than one row.

    Args:
        length: rows of the parameter.
        shares: of the workers, relative.
    """
    ends = list(accumulate(shares))
    return [0, *((2 * length * end + ends[-1]) // (2 * ends[-1]) for end in ends)]
