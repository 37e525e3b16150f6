"""Graphs as files: nothing lost, nothing half written, and no torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from captured_models import gpt

from meshwright.errors import DocumentError
from meshwright.graph import Graph, read_graph, write_graph
from meshwright.graph.capture import capture


@pytest.fixture(scope="module")
def graph() -> Graph:
    job = gpt()
    return capture(job.model, torch.optim.AdamW(job.model.parameters()), job.loss, job.batch)


def test_there_and_back(graph: Graph, tmp_path: Path) -> None:
    write_graph(graph, tmp_path / "run" / "graph.json")
    assert read_graph(tmp_path / "run" / "graph.json") == graph
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["graph.json"]


def test_reading_loads_no_torch(graph: Graph, tmp_path: Path) -> None:
    write_graph(graph, tmp_path / "graph.json")
    program = (
        "import sys; from pathlib import Path; from meshwright.graph import read_graph;"
        f"print(read_graph(Path({str(tmp_path / 'graph.json')!r})).model, 'torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == "GPT False\n"


def test_another_version_and_other_files(graph: Graph, tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    write_graph(graph, path)
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "version": 7}))
    with pytest.raises(DocumentError, match=r"is a graph of version 7; version 1 is known here"):
        read_graph(path)
    path.write_text("{}")
    with pytest.raises(DocumentError, match="is JSON, but no graph"):
        read_graph(path)
    path.write_text(json.dumps(document)[:-20])
    with pytest.raises(DocumentError, match="is not JSON"):
        read_graph(path)
    with pytest.raises(DocumentError, match=r"cannot read .*: No such file or directory"):
        read_graph(tmp_path / "none.json")


def test_unknown_keys_are_named(graph: Graph, tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    write_graph(graph, path)
    document = json.loads(path.read_text())
    document["graph"]["transiend"] = document["graph"].pop("transient")
    path.write_text(json.dumps(document))
    with pytest.raises(DocumentError, match="unknown key 'transiend'"):
        read_graph(path)
