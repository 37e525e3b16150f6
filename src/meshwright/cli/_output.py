"""Text for people and JSON for machines."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console, RenderableType

from meshwright.errors import MeshwrightError, to_json

PLAIN_WIDTH = 120


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on standard output."""
    print(json.dumps(value, ensure_ascii=False))


def print_view(view: RenderableType) -> None:
    """A table or a text on standard output."""
    _console(sys.stdout).print(view)


def print_aside(view: RenderableType) -> None:
    """A table or a text on standard error, where the script's own output is not mixed with it."""
    _console(sys.stderr).print(view)


def print_error(error: MeshwrightError, *, as_json: bool) -> None:
    """An error as text on standard error; for machines also as JSON on standard output."""
    print(f"meshwright: {error}", file=sys.stderr)
    if as_json:
        print_json({"error": json.loads(to_json(error))})


def _console(file: Any) -> Console:
    return Console(file=file, highlight=False, width=None if file.isatty() else PLAIN_WIDTH)
