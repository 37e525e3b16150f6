"""What every worker holds at its peak, by rank."""

from collections.abc import Sequence

from rich.table import Table

from meshwright.plan import RankMemory
from meshwright.units import format_bytes

_MOST_ROWS = 32
_ITEMS = ("parameters", "gradients", "optimizer", "activations")


def memory_by_rank_table(held: Sequence[RankMemory]) -> Table:
    """Workers in a row that hold the same in one line: the largest items, what all come to, and when.

    Args:
        held: in the order of ranks.
    """
    table = Table(title="Memory by rank", title_justify="left")
    for name in ("ranks", "on", *_ITEMS, "other", "peak", "of", "when"):
        table.add_column(name, overflow="fold", no_wrap=name != "on")
    for one in held[:_MOST_ROWS]:
        items = [getattr(one.memory, name) for name in _ITEMS]
        sizes = (*items, one.memory.peak - sum(items), one.memory.peak, one.capacity)
        ranks = f"{one.first} to {one.last}" if one.last > one.first else str(one.first)
        table.add_row(ranks, one.device, *(format_bytes(size) for size in sizes), one.moment)
    if (more := len(held) - _MOST_ROWS) > 0:
        table.caption = f"and {more} more lines, with --json"
        table.caption_justify = "left"
    return table
