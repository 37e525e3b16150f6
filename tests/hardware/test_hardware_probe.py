"""The probe as a whole: one real, reduced run, and what happens when one of its processes ends."""

import subprocess
import sys
from pathlib import Path

import pytest

from meshwright.hardware import Cluster, read_cluster

REDUCED = """
import sys
from pathlib import Path
from meshwright.documents import write_toml
from meshwright.hardware.probe import measure
write_toml(measure(lambda line: print(line, flush=True), time=0.1, rounds=1), Path(sys.argv[1]))
"""

DYING = """
import os, sys, time
from meshwright.hardware.probe_workers import crew, fastest_context

def work(member):
    if member.rank == 1:
        os._exit(1)
    return member.rank

def failing(member):
    if member.rank == 1:
        raise ValueError("the follower's own words")
    return member.rank

def meeting(member):
    member.together()
    return member.rank, member.group

if __name__ == "__main__":
    with crew(3, groups=[2, 3], context=fastest_context()) as members:
        print(members.run(3, meeting), members.run(2, meeting))
        for function in (failing, work):
            try:
                members.run(2, function)
            except Exception as error:
                print(type(error).__name__, str(error).splitlines()[0])
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cluster, list[str]]:
    """A reduced run of the probe: its cluster and the lines it printed."""
    path = tmp_path_factory.mktemp("probe") / "cluster.toml"
    command = [sys.executable, "-W", "error", "-c", REDUCED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return read_cluster(path), done.stdout.splitlines()


def test_the_machine_is_described(run: tuple[Cluster, list[str]]) -> None:
    cluster, lines = run
    processor = cluster.hosts[-1].device
    assert processor.kind == "cpu"
    assert processor.source == "measured"
    assert processor.context > 2**27
    assert cluster.measured_at.startswith("20")
    assert 0.0 <= cluster.load <= 1.0
    assert lines[0].startswith("other processes use ")
    assert any(line.startswith("round 1: 1 process with 1 thread") for line in lines)


def test_every_kind_was_measured_in_every_setting(run: tuple[Cluster, list[str]]) -> None:
    processor = run[0].hosts[-1].device
    settings = {(rate.threads, rate.processes) for rate in processor.operation_rates}
    cores = processor.cores
    assert {(1, 1), (cores, 1), (1, cores)} <= settings
    kinds = {
        "pointwise", "transcendental", "normalization", "reduction", "random", "indexing", "copy", "convolution",
        "attention", "recurrent", "batch_normalization", "pooling", "overhead", "optimizer",
        "optimizer_fused", "allocation",
    }  # fmt: skip
    for setting in settings:
        here = [rate for rate in processor.operation_rates if (rate.threads, rate.processes) == setting]
        assert {rate.kind for rate in here} == kinds
        assert all(rate.bandwidth > 0 for rate in here if rate.kind != "overhead")
    assert {rate.dtype for rate in processor.matrix_rates} >= {"float32", "float64"}
    assert all(rate.exact for rate in processor.matrix_rates if rate.library == "default")


def test_collectives_were_measured_where_there_are_cores(run: tuple[Cluster, list[str]]) -> None:
    cluster, _ = run
    cores = cluster.hosts[-1].device.cores
    if cores == 1:
        assert cluster.links == ()
        return
    rates = cluster.links[0].collectives
    assert cluster.links[0].tier == "process"
    gloo = {rate.collective for rate in rates if rate.transport == "gloo"}
    assert gloo == {"all_reduce", "all_gather", "reduce_scatter", "broadcast"}
    assert {"shared_memory", "shared_memory_staged"} <= {rate.transport for rate in rates}
    assert {rate.group for rate in rates} <= set(range(2, 9))
    assert all(rate.bandwidth > 0 for rate in rates)


def test_processes_answer_fail_and_die_loudly(tmp_path: Path) -> None:
    program = tmp_path / "dying.py"
    program.write_text(DYING)
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == [
        "[(0, 3), (1, 3), (2, 3)] [(0, 2), (1, 2)]",
        "ValueError the follower's own words",
        "HardwareError one of 2 processes that measure together ended or gave no answer for 60 s",
    ]
