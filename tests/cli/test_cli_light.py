"""What reads files only never loads torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from launch_builders import plan
from meshwright.graph import write_graph
from meshwright.hardware import write_cluster
from meshwright.plan import write_plan
from planning_builders import machine, multilayer

LOADED = """
import sys
from meshwright.cli._app import run_command
code = run_command(sys.argv[1:])
print("torch" in sys.modules, code, file=sys.stderr)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a plan, a graph and a cluster; enough to be a run's folder."""
    write_plan(plan(2), tmp_path / "plan.toml")
    write_graph(multilayer(), tmp_path / "graph.json")
    write_cluster(machine(), tmp_path / "cluster.toml")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "--version",
        "run --help",
        "plan --help",
        "hardware --help",
        "examples",
        "explain plan.toml",
        "explain plan.toml plan.toml --json",
        "report .",
        "plan --cluster cluster.toml --save other.toml graph.json",
    ],
)
def test_it_does_not_load_torch(folder: Path, command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *command.split()], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines()[-1] == "False 0", done.stderr
