"""The cluster on one machine: links, limits, and that nothing stays behind."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import cache
from pathlib import Path

import pytest

import testbed
from meshwright.errors import UsageError
from testbed import host_command, obstacle
from testbed_description import Description, HostDescription, parse_rate, read_description

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

reason = cache(obstacle)
needs_testbed = pytest.mark.skipif("reason()", reason="no network namespaces, control groups or tools here")

TWO = Description(bandwidth="80Mbit/s", hosts=(HostDescription(name="a"), HostDescription(name="b", cpus=0.5)))

# Host 0 sends 2 MB to host 1; each prints what it knows.
TRANSFER = """
import socket, sys, time
rank, address, size = int(sys.argv[1]), sys.argv[2], 2_000_000
if rank == 0:
    with socket.create_server(("", 4000)) as server:
        connection, _ = server.accept()
        connection.sendall(bytes(size)); connection.recv(1)
else:
    for _ in range(100):
        try:
            connection = socket.create_connection((address, 4000)); break
        except OSError:
            time.sleep(0.05)
    started, received = time.perf_counter(), 0
    while received < size:
        received += len(connection.recv(1 << 16))
    connection.sendall(b"x")
    print(time.perf_counter() - started)
"""


def run_testbed(tmp_path: Path, *words: str, text: str) -> "subprocess.CompletedProcess[str]":
    file = tmp_path / "cluster.toml"
    file.write_text(textwrap.dedent(text))
    command = [sys.executable, str(BENCHMARKS / "testbed.py"), "--json", str(file), "--", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def left_behind(process: int) -> list[str]:
    """Namespaces, control groups and folders of a testbed that this process made."""
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split()
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/testbed-{process}-*")]
    return [name for name in names if name.startswith(f"testbed-{process}-")] + groups


def test_rates_are_written_in_bits_per_second():
    """100 Mbit/s are 12.5 MB/s."""
    assert parse_rate("100Mbit/s") == 12.5e6
    assert parse_rate("1 Gbit/s") == 125e6
    with pytest.raises(UsageError, match="'fast' is no bandwidth"):
        parse_rate("fast")


def test_a_host_takes_the_descriptions_rate_unless_it_has_its_own(tmp_path):
    file = tmp_path / "cluster.toml"
    file.write_text('bandwidth = "8Mbit/s"\n[[hosts]]\nname = "a"\n[[hosts]]\nname = "b"\nbandwidth = "16Mbit/s"\n')
    description = read_description(file)
    assert [description.link_rate(rank) for rank in (0, 1)] == [1e6, 2e6]


def test_two_hosts_of_one_name_are_refused(tmp_path):
    file = tmp_path / "cluster.toml"
    file.write_text('[[hosts]]\nname = "a"\n[[hosts]]\nname = "a"\n')
    with pytest.raises(UsageError, match="each with its own name"):
        read_description(file)


def test_meshwright_gets_its_place_and_other_commands_their_words():
    words = host_command(["/bin/meshwright", "run", "train.py"], rank=1, description=TWO)
    place = ["--nodes", "2", "--rendezvous", "10.77.0.1:29500", "--node-rank", "1"]
    assert words == ["/bin/meshwright", "run", *place, "train.py"]
    assert host_command(["x", "{rank}/{hosts}@{name}", "{else}"], rank=1, description=TWO) == ["x", "1/2@b", "{else}"]


@needs_testbed
def test_links_are_shaped_and_counted_and_nothing_stays(tmp_path):
    """2 MB at 16 Mbit/s take at least 0.9 s, of which 128 KiB may pass at once."""
    text = 'bandwidth = "16Mbit/s"\n[[hosts]]\nname = "a"\n[[hosts]]\nname = "b"\n'
    done = run_testbed(tmp_path, sys.executable, "-c", TRANSFER, "{rank}", "{address}", text=text)
    assert done.returncode == 0, done.stderr
    seconds = float(done.stderr.split("b: ")[1].split()[0])
    assert seconds > 0.85
    sender, receiver = json.loads(done.stdout)["links"]
    assert 2_000_000 < sender["sent"] < 2_300_000
    assert 2_000_000 < receiver["received"] < 2_300_000
    assert sender["received"] < 200_000


@needs_testbed
def test_a_host_that_fails_ends_the_job_with_its_status(tmp_path):
    text = '[[hosts]]\nname = "a"\n[[hosts]]\nname = "b"\n'
    done = run_testbed(tmp_path, "sh", "-c", "exit $((7 * {rank}))", text=text)
    assert done.returncode == 7
    assert json.loads(done.stdout)["status"] == 7


@needs_testbed
def test_a_host_is_another_host_and_keeps_its_limits(tmp_path):
    """Own name, own processes, own share of the processor and of memory."""
    text = '[[hosts]]\nname = "small"\ncores = [0]\nmemory = "64MiB"\n'
    look = "import os,socket;print(socket.gethostname(), os.getppid(), os.sched_getaffinity(0))"
    done = run_testbed(tmp_path, sys.executable, "-c", look, text=text)
    assert done.stdout.splitlines()[0] == "small 0 {0}"
    greedy = run_testbed(tmp_path, sys.executable, "-c", "b = bytearray(200 * 2**20); print(len(b))", text=text)
    assert greedy.returncode != 0


@needs_testbed
def test_what_the_kernel_ends_for_lack_of_memory_is_counted():
    """200 MiB are asked for where 64 MiB may be used; a host without such a process counts none."""
    hosts = (HostDescription(name="small", memory="64MiB"), HostDescription(name="other", memory="64MiB"))
    with testbed.Testbed(Description(hosts=hosts)) as bed:
        greedy = bed.start(0, [sys.executable, "-c", "bytearray(200 * 2**20)"], errors=subprocess.DEVNULL)
        assert greedy.wait() != 0
        use, other = bed.memory(0), bed.memory(1)
    assert use.killed >= 1
    assert use.peak <= 64 * 2**20
    assert other.killed == 0


@needs_testbed
def test_what_a_killed_testbed_leaves_is_removed_by_the_next(tmp_path):
    file = tmp_path / "cluster.toml"
    file.write_text('[[hosts]]\nname = "a"\n')
    mark = tmp_path / "started"
    sleeper = ["sh", "-c", f"echo $$ > {mark}; exec sleep 60"]
    killed = subprocess.Popen([sys.executable, str(BENCHMARKS / "testbed.py"), str(file), "--", *sleeper])
    while not mark.exists():
        assert killed.poll() is None
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert left_behind(killed.pid)
    done = run_testbed(tmp_path, "true", text='[[hosts]]\nname = "a"\n')
    assert done.returncode == 0, done.stderr
    assert left_behind(killed.pid) == []
