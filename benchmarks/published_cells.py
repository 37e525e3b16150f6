"""Cells of a table of published runs as numbers and truths, however they were written down."""

import re
from collections.abc import Mapping

from meshwright.errors import UsageError

# What tables write where they have no value.
_BLANK = frozenset(("", "-", "--", "?", "n/a", "na", "nan", "null", "none", "unknown", "not stated", "unspecified"))
_TRUE = frozenset(("true", "1", "1.0", "yes", "y", "on", "t"))
_LARGEST = 1e15
# What follows a number after a blank or in parentheses.
_REMARK = re.compile(r"(?<=\d)\s*\(.*|(?<=\d)\s+[^\d\s].*")


def text(row: Mapping[str, str], name: str) -> str:
    """A cell without blanks around it; empty where the table has no such column."""
    return (row.get(name) or "").strip()


def is_blank(row: Mapping[str, str], name: str) -> bool:
    """Whether a cell holds no number or truth."""
    return text(row, name).lower() in _BLANK


def is_true(row: Mapping[str, str], name: str, *, default: bool) -> bool:
    """A cell's truth.

    Args:
        default: where it is blank.
    """
    return default if is_blank(row, name) else text(row, name).lower() in _TRUE


def number(row: Mapping[str, str], name: str, *, default: float | None = None) -> float:
    """A cell's number, with or without commas between thousands and a remark behind it: `1,024 (128 hosts)`.

    Args:
        default: where it is blank; None: it may not be.

    Raises:
        UsageError: blank without a default, not a number, or not a size.
    """
    if is_blank(row, name):
        if default is None:
            raise UsageError(f"row {row['row_id']}: {name} is blank", cause="the model cannot do without it")
        return default
    written = text(row, name)
    try:
        value = float(_REMARK.sub("", written).replace(",", "").replace("_", ""))
    except ValueError:
        raise UsageError(f"row {row['row_id']}: {name} is {written!r}, which is not a number") from None
    if not 0 <= value < _LARGEST:
        raise UsageError(f"row {row['row_id']}: {name} is {written}, which is not a size")
    return value


def whole(row: Mapping[str, str], name: str, *, default: int | None = None) -> int:
    """A cell's whole number.

    Args:
        default: where it is blank; None: it may not be.

    Raises:
        UsageError: as `number`, or it has a fraction.
    """
    value = number(row, name, default=default)
    if value != int(value):
        raise UsageError(f"row {row['row_id']}: {name} is {value:g}, which is not a whole number")
    return int(value)


def count(row: Mapping[str, str], name: str, *, default: int | None = None) -> int:
    """A cell's whole number from 1 on; 0 says as little as a blank.

    Args:
        default: where it says nothing; None: it has to.

    Raises:
        UsageError: as `whole`, or 0 without a default.
    """
    value = whole(row, name, default=default)
    if value:
        return value
    if default is None:
        raise UsageError(f"row {row['row_id']}: {name} is 0", cause="the model cannot do without it")
    return max(1, default)
