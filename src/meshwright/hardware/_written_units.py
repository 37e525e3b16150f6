"""Figures of a cluster file that are written with their unit: `bandwidth = "25GB/s"`, `latency = "5us"`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from meshwright.errors import DocumentError
from meshwright.units import parse_bytes, parse_rate, parse_seconds

_PARSED: dict[str, Callable[[str], float]] = {
    "bandwidth": parse_rate, "latency": parse_seconds, "loading": parse_rate, "memory": parse_bytes,
    "context": parse_bytes,
}  # fmt: skip


def with_plain_figures(document: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The document of a cluster with numbers in SI units in the place of figures that have a unit.

    Args:
        document: as read.
        path: of the file, for the message.

    Raises:
        DocumentError: a text that is no such figure, with the units that are understood.
    """
    return {key: _plain(value, (key,), path) for key, value in document.items()}


def _plain(value: Any, place: tuple[str, ...], path: Path) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item, (*place, key), path) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, (*place, str(index)), path) for index, item in enumerate(value)]
    if not isinstance(value, str) or place[-1] not in _PARSED:
        return value
    try:
        return _PARSED[place[-1]](value)
    except ValueError as error:
        raise DocumentError(f"{path}: {'.'.join(place)}: {error}", cause="a number alone is in SI units") from None
