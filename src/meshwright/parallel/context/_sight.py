"""Which keys of one worker the queries of another see, where every query sees what is not later than itself."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """What of a block is computed.

    Args:
        rows: queries, from the first that sees any key.
        columns: keys, to the last that any query sees.
        order: whether each of these queries sees `all` of these keys, those to the diagonal (`lower`), or `some`.
    """

    rows: slice
    columns: slice
    order: Literal["all", "lower", "some"]


def sight(rows: Tensor, columns: Tensor) -> Sight | None:
    """What queries at some positions see of keys at others; None: nothing.

    Args:
        rows: positions of the queries, ascending.
        columns: positions of the keys, ascending.
    """
    unseeing, seen = int((rows < columns[0]).sum()), int((columns <= rows[-1]).sum())
    if not seen:
        return None
    looking, visible = rows[unseeing:], columns[:seen]
    order = (
        "all"
        if visible[-1] <= looking[0]
        else "lower"
        if len(looking) == len(visible) and bool((looking == visible).all())
        else "some"
    )
    return Sight(rows=slice(unseeing, len(rows)), columns=slice(0, seen), order=order)
