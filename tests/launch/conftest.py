"""The folder in which the tiny script is run."""

from pathlib import Path

import pytest

from launch_builders import cluster, plan, tiny_script
from meshwright.hardware import write_cluster
from meshwright.plan import write_plan


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the script, a plan for one worker, one for two, one for two hosts, and a cluster."""
    tiny_script(tmp_path)
    write_cluster(cluster(), tmp_path / "cluster.toml")
    write_plan(plan(1), tmp_path / "one.toml")
    write_plan(plan(2), tmp_path / "two.toml")
    write_plan(plan(2, hosts=("first", "second")), tmp_path / "hosts.toml")
    return tmp_path
