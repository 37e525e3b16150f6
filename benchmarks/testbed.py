"""A cluster on one machine: hosts with their own network, shaped links, processor time and memory.

    python benchmarks/testbed.py cluster.toml -- meshwright run --set workers=2 examples/character_gpt.py
    python benchmarks/testbed.py cluster.toml -- torchrun --nnodes {hosts} --node-rank {rank} \\
        --nproc-per-node 1 --master-addr {address} --master-port {port} train.py
    python benchmarks/testbed.py --json cluster.toml -- hostname

Starts the command once on every host. In `meshwright run …` the hosts, their number and their meeting place are put in;
in any other command these are replaced:

    {rank}     the host's number, from 0        {name}     the host's name
    {hosts}    how many hosts there are         {address}  address of host 0
    {port}     a port that is free on host 0

Host 0's output is shown as it is, that of the others on standard error with the host's name before each line. When
all have ended, the bytes that went over each link are printed. The exit status is the first that is not 0; when one
host's command fails, the others are ended. Needs root, `ip`, `tc`, `nsenter`, `unshare` and `setpriv`.
What a testbed has made is removed when it ends, and what one that was killed has left is removed by the next.
`testbed_description` says what the file may hold.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO, Self

from meshwright.errors import MeshwrightError
from meshwright.units import BytesPerSecond
from testbed_description import Description, HostDescription, read_description
from testbed_limits import Limits, MemoryUse, groups_named, remove_group
from testbed_network import CommandError, Network, Traffic, namespaces_named, remove_namespace

PREFIX = "testbed"
PORT = 29500
TOOLS = ("ip", "tc", "nsenter", "unshare", "setpriv", "mount", "hostname")
SCRATCH = Path(tempfile.gettempdir())
# Joins the control groups, then the namespaces; the host's processes see neither other hosts' nor outlive the testbed.
ENTER = 'for group in $1; do echo $$ > "$group/cgroup.procs"; done; shift; exec "$@"'
BECOME = 'mount --bind "$1" /etc/hosts && hostname "$2" && shift 2 && exec "$@"'


class Testbed:
    """Hosts on this machine; a context manager that leaves nothing behind.

    Args:
        description: the hosts.

    Raises:
        CommandError, OSError: the kernel or a container does not let this process make them.
    """

    def __init__(self, description: Description) -> None:
        remove_stale()
        self.description = description
        self._prefix = f"{PREFIX}-{os.getpid()}-{_start_time(os.getpid())}-{id(self):x}"
        self._undo = ExitStack()
        self._started: list[subprocess.Popen[bytes]] = []
        hosts = description.hosts
        try:
            folder = SCRATCH / self._prefix
            folder.mkdir()
            self._undo.callback(shutil.rmtree, folder, ignore_errors=True)
            self._names = folder / "hosts"
            lines = [f"{Network.address(rank)} {host.name}" for rank, host in enumerate(hosts)]
            self._names.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
            self._undo.callback(self._remove_namespaces)
            self.network = Network(
                self._prefix,
                names=[host.name for host in hosts],
                rates=[description.link_rate(rank) for rank in range(len(hosts))],
            )
            self._limits = [self._limited(rank, host) for rank, host in enumerate(hosts)]
        except BaseException:
            self._undo.close()
            raise

    def start(
        self,
        rank: int,
        arguments: Sequence[str],
        *,
        output: IO[bytes] | int | None = None,
        errors: IO[bytes] | int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> "subprocess.Popen[bytes]":
        """Starts a command on a host; it ends with the testbed at the latest.

        Args:
            rank: the host.
            arguments: the command.
            output: where it writes; None: where the testbed does.
            errors: where its errors go; None: where the testbed's do.
            environment: its environment; None: the testbed's.
        """
        groups = " ".join(map(str, self._limits[rank].folders))
        join = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", ENTER, "sh", groups]
        namespace = f"/run/netns/{self.network.namespaces[rank]}"
        own = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
        become = ["sh", "-c", BECOME, "sh", str(self._names), self.description.hosts[rank].name]
        process = subprocess.Popen(
            [*join, "nsenter", f"--net={namespace}", *own, *become, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=None if environment is None else dict(environment),
        )
        self._started.append(process)
        return process

    def traffic(self) -> tuple[Traffic, ...]:
        """What went over each host's link."""
        return self.network.traffic()

    def memory(self, rank: int) -> MemoryUse:
        """What a host's processes have taken of memory so far."""
        return self._limits[rank].memory()

    def limit(self, rank: int, *, cpus: float) -> None:
        """Changes a host's processor time per second of clock time; 0: no limit."""
        self._limits[rank].set_cpus(cpus)

    def set_rate(self, rank: int, rate: BytesPerSecond) -> None:
        """Changes the bandwidth of a host's link, each way (B/s); 0: not shaped."""
        self.network.set_rate(rank, rate)

    def close(self) -> None:
        """Ends every process of the hosts and removes what was made."""
        for process in self._started:
            process.kill()
        for process in self._started:
            process.wait()
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _limited(self, rank: int, host: HostDescription) -> Limits:
        name = f"{self._prefix}-{rank}"
        self._undo.callback(lambda: [remove_group(folder) for folder in groups_named(name)])
        return Limits(name, cores=host.cores, cpus=host.cpus, memory=host.memory_limit)

    def _remove_namespaces(self) -> None:
        for namespace in namespaces_named(self._prefix):
            remove_namespace(namespace)


def obstacle() -> str:
    """Why there can be no testbed here; empty: there can."""
    if sys.platform != "linux":
        return f"{sys.platform} has no network namespaces"
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    probe = HostDescription(name="probe", bandwidth="1Gbit/s", cores=(0,), cpus=0.5, memory="64MiB")
    try:
        with Testbed(Description(hosts=(probe,))) as bed:
            status = bed.start(0, ["true"], errors=subprocess.DEVNULL).wait()
    except (CommandError, OSError) as error:
        return str(error)
    return f"a host's first process ended with status {status}" if status else ""


def remove_stale() -> None:
    """Removes what testbeds left behind whose process has ended."""
    stale: dict[str, bool] = {}

    def is_stale(name: str) -> bool:
        match = re.match(rf"{PREFIX}-(\d+)-(\d+)-", name)
        if match is None:
            return False
        return stale.setdefault(match[0], _start_time(int(match[1])) != int(match[2]))

    for folder in groups_named(f"{PREFIX}-"):
        if is_stale(folder.name):
            remove_group(folder)
    for namespace in namespaces_named(f"{PREFIX}-"):
        if is_stale(namespace):
            remove_namespace(namespace)
    for folder in SCRATCH.glob(f"{PREFIX}-*"):
        if is_stale(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def _start_time(process: int) -> int:
    """When a process started, in ticks since the machine did; 0 where there is none. Numbers are used again."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[19])


def host_command(words: Sequence[str], *, rank: int, description: Description) -> list[str]:
    """What a host runs of the command that was given for all."""
    address = Network.address(0)
    if Path(words[0]).name == "meshwright" and words[1:2] == ["run"]:
        place = ["--nodes", str(len(description.hosts)), "--rendezvous", f"{address}:{PORT}", "--node-rank", str(rank)]
        return [*words[:2], *place, *words[2:]]
    values = {
        "rank": rank, "hosts": len(description.hosts), "address": address, "port": PORT,
        "name": description.hosts[rank].name,
    }  # fmt: skip
    return [re.sub(r"\{(\w+)\}", lambda match: str(values.get(match[1], match[0])), word) for word in words]


def run(description: Description, words: Sequence[str]) -> tuple[int, tuple[Traffic, ...]]:
    """Runs a command on all hosts; its exit status and the traffic."""
    with Testbed(description) as bed:
        processes = []
        for rank, host in enumerate(description.hosts):
            own = host_command(words, rank=rank, description=description)
            if rank == 0:
                processes.append(bed.start(rank, own))
                continue
            process = bed.start(rank, own, output=subprocess.PIPE, errors=subprocess.STDOUT)
            assert process.stdout is not None
            threading.Thread(target=_relay, args=(process.stdout, host.name), daemon=True).start()
            processes.append(process)
        status = _first_failure(processes)
        return status, bed.traffic()


def _relay(stream: IO[bytes], name: str) -> None:
    for line in stream:
        sys.stderr.write(f"{name}: {line.decode(errors='replace')}")


def _first_failure(processes: "Sequence[subprocess.Popen[bytes]]") -> int:
    """Waits until all have ended, or one has failed and the others had time to notice; the first status not 0."""
    status, deadline = 0, float("inf")
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        failed = [process.returncode for process in processes if process.returncode]
        if failed and not status:
            status, deadline = failed[0], time.monotonic() + 30.0
        time.sleep(0.05)
    return status or next((process.returncode for process in processes if process.returncode), 0)


def _ask_to_end(*_: object) -> None:
    raise KeyboardInterrupt


def main(words: Sequence[str]) -> int:
    """Reads the command line, runs, prints."""
    if "--" not in words:
        sys.exit(__doc__)
    cut = list(words).index("--")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the hosts")
    parser.add_argument("--json", action="store_true", help="print the traffic as one JSON object")
    options = parser.parse_args(words[:cut])
    reason = obstacle()
    if reason:
        sys.exit(f"no testbed here: {reason}")
    signal.signal(signal.SIGTERM, _ask_to_end)
    signal.signal(signal.SIGHUP, _ask_to_end)
    try:
        status, traffic = run(read_description(options.file), words[cut + 1 :])
    except MeshwrightError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        return 130
    if options.json:
        print(json.dumps({"status": status, "links": [asdict(link) for link in traffic]}))
    else:
        for link in traffic:
            print(f"{link.host}: sent {link.sent / 1e6:.3f} MB, received {link.received / 1e6:.3f} MB", file=sys.stderr)
    return 128 - status if status < 0 else status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
