"""Where every setting of a run comes from: the values of `run.toml` as rows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One value of a run: its name, the value as text, and its origin; empty where none is recorded."""

    name: str
    value: str
    origin: str = ""


def settings(record: Mapping[str, Any]) -> tuple[Setting, ...]:
    """The rows of a `run.toml`: what was run and where, then every value with its origin."""
    values = record.get("values", {})
    rest = {key: value for key, value in record.items() if key != "values"}
    return (*_rows(rest, prefix=""), *_rows(values, prefix=""))


def _rows(mapping: Mapping[str, Any], *, prefix: str) -> Iterator[Setting]:
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and set(value) == {"value", "origin"}:
            yield Setting(name=name, value=_text(value["value"]), origin=str(value["origin"]))
        elif isinstance(value, Mapping):
            yield from _rows(value, prefix=f"{name}.")
        else:
            yield Setting(name=name, value=_text(value))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(_text(item) for item in value) or "none"
    return str(value) or "–"
