"""A graph as a JSON file, for everything that runs later and never loads torch."""

import json
from pathlib import Path
from typing import Any

from meshwright.documents import from_mapping, to_mapping, write_text
from meshwright.errors import DocumentError
from meshwright.graph._graph import Graph

_FORMAT = "meshwright-graph"
_VERSION = 1


def write_graph(graph: Graph, path: Path) -> None:
    """Stores a graph as JSON, whole or not at all.

    Raises:
        DocumentError: the folder cannot be written.
    """
    document = {"format": _FORMAT, "version": _VERSION, "graph": to_mapping(graph)}
    write_text(path, json.dumps(document, ensure_ascii=False) + "\n")


def read_graph(path: Path) -> Graph:
    """The graph stored in a JSON file.

    Raises:
        DocumentError: no such file, not JSON, not a graph, or a graph of a version that is not known here.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DocumentError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise DocumentError(
            f"{path} is not JSON: {error}", cause="the file was cut short or is something else"
        ) from None
    return from_mapping(Graph, _checked(document, path), where=str(path))


def _checked(document: Any, path: Path) -> dict[str, Any]:
    if not isinstance(document, dict) or document.get("format") != _FORMAT or "graph" not in document:
        raise DocumentError(
            f"{path} is JSON, but no graph",
            cause=f'a graph says "format": "{_FORMAT}" at its top',
            alternatives=["give the graph.json of a run folder"],
        )
    if document.get("version") != _VERSION:
        raise DocumentError(
            f"{path} is a graph of version {document.get('version')!r}; version {_VERSION} is known here",
            cause="another version of Meshwright wrote it",
            alternatives=["install the version that wrote it"],
            command="meshwright plan SCRIPT",
        )
    return document["graph"]
