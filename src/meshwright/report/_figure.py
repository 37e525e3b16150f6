"""A figure of the page: plain data in plotly's schema, and the same numbers as a table.

A colour is the name of one of the page's CSS variables (`--forward`), so that one figure serves light and dark.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One figure of the page.

    Args:
        key: its element's id.
        title: heading.
        caption: what to see in it, in a sentence with numbers.
        traces: plotly's `data`.
        layout: what differs from the page's common layout.
        columns: head of the table with the same numbers.
        rows: that table.
        height: of the drawing (px).
    """

    key: str
    title: str
    caption: str
    traces: tuple[Mapping[str, Any], ...]
    layout: Mapping[str, Any]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    height: int = 320
