"""Frozen data as TOML that a person can read and edit; nothing is lost on the way there and back.

Every value that crosses a room's border (Cluster, Plan, Prediction, …) is a frozen dataclass. Reading checks types
and refuses unknown keys, naming the key meant; writing is atomic, so that a reader never sees half a file.
"""

import json
import os
import re
import tempfile
import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import tomli_w
from pydantic import TypeAdapter, ValidationError

from meshwright.errors import DocumentError, suggestion

T = TypeVar("T")


def to_mapping(value: object) -> dict[str, Any]:
    """A frozen dataclass as plain dicts, lists, strings and numbers; fields that are None are left out."""
    return TypeAdapter(type(value)).dump_python(value, mode="json", exclude_none=True)


def from_mapping(kind: type[T], mapping: dict[str, Any], *, where: str) -> T:
    """The frozen dataclass that a mapping describes.

    Args:
        kind: the dataclass to make.
        mapping: what was read.
        where: the file's name, for the message.

    Raises:
        DocumentError: a key that is unknown, missing, or of the wrong type; with the nearest legal key.
    """
    unknown = _unknown_key(kind, mapping, ())
    if unknown is not None:
        path, legal = unknown
        hint = suggestion(path[-1], legal)
        raise DocumentError(
            f"{where}: unknown key {'.'.join(path)!r}",
            cause=hint or "no such key is known there",
            alternatives=[f"legal keys there: {', '.join(legal)}"],
        )
    try:
        return TypeAdapter(kind).validate_python(mapping)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        # what may stand there, where that is a list of words: 'none', 'optimizer' or 'gradients'
        words = re.findall("'([^']+)'", str(first.get("ctx", {}).get("expected", "")))
        meant = suggestion(str(first["input"]), words)
        if first["type"] == "missing":
            raise DocumentError(f"{where}: {key} is missing") from None
        raise DocumentError(
            f"{where}: {key or 'the document'}: {first['msg']}",
            cause=f"read {first['input']!r}{'; ' if meant else ''}{meant}",
        ) from None


def read_toml(kind: type[T], path: Path) -> T:
    """The frozen dataclass stored in a TOML file.

    Raises:
        DocumentError: no such file, not TOML, or not what `kind` asks for.
    """
    return from_mapping(kind, read_mapping(path), where=str(path))


def read_mapping(path: Path) -> dict[str, Any]:
    """What stands in a TOML file.

    Raises:
        DocumentError: no such file, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        near = suggestion(path.name, [other.name for other in path.parent.glob(f"*{path.suffix}")])
        raise DocumentError(f"cannot read {path}: {error.strerror}", cause=near) from None
    except tomllib.TOMLDecodeError as error:
        raise DocumentError(f"{path} is not TOML: {error}") from None


def write_toml(value: object, path: Path, *, heading: str = "") -> None:
    """Stores a frozen dataclass as TOML, whole or not at all.

    Args:
        value: the dataclass.
        path: of the file.
        heading: lines for whoever opens the file; written as comments.
    """
    comments = "".join(f"# {line}".rstrip() + "\n" for line in heading.splitlines())
    write_text(path, comments + tomli_w.dumps(to_mapping(value)))


def to_json(value: object) -> str:
    """A frozen dataclass as one line of JSON."""
    return json.dumps(to_mapping(value), ensure_ascii=False)


def write_text(path: Path, text: str) -> None:
    """Stores text atomically: written beside the target, then renamed over it.

    Raises:
        DocumentError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
        os.chmod(file.name, 0o644)
        os.replace(file.name, path)
    except OSError as error:
        raise DocumentError(
            f"cannot write {path}: {error.strerror}",
            cause="the folder is read-only, full, or is no folder",
            alternatives=["give another place, in a folder that can be written"],
        ) from None


def _unknown_key(kind: Any, value: Any, path: tuple[str, ...]) -> tuple[tuple[str, ...], list[str]] | None:
    if is_dataclass(kind) and isinstance(value, dict):
        legal = {field.name: field.type for field in fields(kind)}
        for key, item in value.items():
            if key not in legal:
                return (*path, key), list(legal)
            found = _unknown_key(legal[key], item, (*path, key))
            if found is not None:
                return found
        return None
    if get_origin(kind) is dict and isinstance(value, dict):
        found = (_unknown_key(get_args(kind)[1], item, (*path, key)) for key, item in value.items())
        return next((key for key in found if key is not None), None)
    items = value if isinstance(value, list) else [value]
    for argument in get_args(kind):
        for item in items:
            found = _unknown_key(argument, item, path) if isinstance(item, dict) else None
            if found is not None:
                return found
    return None
