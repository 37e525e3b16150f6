"""Sizes of unequal shards: as even as there is room for, in the fewest whole numbers."""

from functools import reduce
from math import gcd

import numpy as np
from numpy.typing import NDArray

Parts = NDArray[np.float64]

_WHOLE = 1000  # the largest shard at most; the fewest parts that fit are taken
_FEW = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 32, 64, 100)


def levelled(most: Parts, counts: Parts) -> Parts:
    """Equal parts where there is room for them, and where there is not, as large as there is room for.

    Args:
        most: of what is in shards, the share that each has room for; together at least 1.
        counts: how many there are of each.
    """
    parts = np.zeros_like(most)
    left, open_ = 1.0, np.ones_like(most, dtype=np.bool_)
    while open_.any():
        even = left / counts[open_].sum()
        full = open_ & (most <= even)
        if not full.any():
            parts[open_] = even
            break
        parts[full] = most[full]
        left -= float(counts[full] @ most[full])
        open_ &= ~full
    return parts


def in_whole_numbers(parts: Parts, counts: Parts, *, most: Parts | None = None) -> tuple[int, ...] | None:
    """The fewest whole numbers within a hundredth of these proportions; None where none of them fit.

    Args:
        parts: of each, adding up to 1.
        counts: how many there are of each.
        most: that each has room for; None: all have room.
    """
    full = parts >= most * (1 - 1e-9) if most is not None else np.zeros_like(parts, dtype=np.bool_)
    for largest in (*_FEW, _WHOLE):
        exact = parts / parts.max() * largest
        sizes = np.where(full, np.floor(exact + 1e-9), np.floor(exact + 0.5))
        shares = sizes / (counts @ sizes)
        close = np.abs(shares - parts).max() <= 0.01 * parts.max() or largest == _WHOLE
        if close and (most is None or (shares <= most * (1 + 1e-9)).all()):
            whole = [int(size) for size in sizes]
            divisor = reduce(gcd, whole)
            return tuple(size // divisor for size in whole)
    return None
