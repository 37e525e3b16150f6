"""The link between hosts, measured by their agents before there is a plan."""

import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from meshwright.documents import read_toml, write_toml
from meshwright.hardware import Link
from meshwright.launch import Hosts, RunFolder
from meshwright.launch._agent_job import AgentJob, AgentTask
from starter import Starter

LIMIT = 120


def _agents(place: Path, task: AgentTask, *, python: str = sys.executable) -> list[RunFolder]:
    """Two hosts' agents on this machine; their folders."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folders, processes = [], []
    for rank in range(2):
        folder = RunFolder(path=place / str(rank))
        folder.prepare()
        hosts = Hosts(count=2, rank=rank, address="127.0.0.1", port=port)
        job = AgentJob(script="", folder=folder.path, hosts=hosts, patience=60, task="measure")
        write_toml(job if rank else replace(job, task=task), folder.agent_job)
        command = [python, "-m", "meshwright.launch.agent", str(folder.agent_job)]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        folders.append(folder)
    for process in processes:
        _, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, err
    return folders


def test_host_0_has_the_link_that_it_asked_for(tmp_path: Path) -> None:
    """Between two hosts an all-reduce moves as many bytes as the tensor has, in two hops."""
    first, second = _agents(tmp_path, "measure")
    link = read_toml(Link, first.link)
    whole = link.collectives[0]
    assert (link.tier, whole.collective, whole.transport, whole.group) == ("network", "all_reduce", "gloo", 2)
    assert link.bandwidth == pytest.approx(whole.bandwidth)
    assert link.latency == pytest.approx(whole.latency / 2)
    assert link.bandwidth > 1e6
    assert {row.collective for row in link.collectives} == {"all_reduce", "all_gather", "reduce_scatter", "broadcast"}
    assert {row.collective for row in link.collectives if row.transport == "direct"} == {"all_reduce", "broadcast"}
    assert not second.link.exists()


def test_nothing_is_measured_where_host_0_knows(tmp_path: Path, starter: Starter) -> None:
    first, second = _agents(tmp_path, "skip", python=starter.python)
    assert not first.link.exists()
    assert not second.link.exists()
