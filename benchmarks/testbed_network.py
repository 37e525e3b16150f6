"""Hosts as network namespaces, joined by a bridge in a namespace of its own; every link shaped in both directions.

    host namespace          switch namespace
    eth0 ── tbf ──▶ ◀── tbf ── port0 ─┐
    eth0 ── tbf ──▶ ◀── tbf ── port1 ─┴─ bridge

A packet passes two shaped queues: its sender's and the port of its receiver, as it would at a real switch. Nothing is
added to the machine's own network: the switch's namespace is gone, and with it all of this, when it is deleted.
"""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from meshwright.units import Bytes, BytesPerSecond

# What a queue lets through at once: a segment that the kernel has not cut yet (64 KiB), or 2 ms at full rate.
BURST: Bytes = 128 * 1024
BURST_SECONDS = 2e-3
# A packet waits no longer than this (s) before it is dropped: a short queue, so that TCP sees congestion early.
QUEUE = "50ms"


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """What went over one host's link, headers included.

    Args:
        host: its name.
        sent: by the host (B).
        received: by the host (B).
    """

    host: str
    sent: Bytes
    received: Bytes


class Network:
    """The namespaces of a testbed and the links between them; made here, removed with `remove`.

    Args:
        prefix: of the namespaces' names.
        names: of the hosts.
        rates: bandwidth of each host's link, each way (B/s); 0: not shaped.

    Raises:
        CommandError: the kernel or a container does not let this process make them.
    """

    def __init__(self, prefix: str, *, names: Sequence[str], rates: Sequence[BytesPerSecond]) -> None:
        self._names = tuple(names)
        self._switch = f"{prefix}-switch"
        self.namespaces = tuple(f"{prefix}-{number}" for number in range(len(names)))
        for namespace in (self._switch, *self.namespaces):
            command("ip", "netns", "add", namespace)
            command("ip", "-n", namespace, "link", "set", "lo", "up")
        command("ip", "-n", self._switch, "link", "add", "bridge", "type", "bridge")
        command("ip", "-n", self._switch, "link", "set", "bridge", "up")
        for rank, rate in enumerate(rates):
            self._connect(rank, rate)

    @staticmethod
    def address(rank: int) -> str:
        """A host's address."""
        return f"10.77.{rank // 250}.{rank % 250 + 1}"

    def set_rate(self, rank: int, rate: BytesPerSecond) -> None:
        """Changes the bandwidth of a host's link, each way (B/s); 0: not shaped."""
        for namespace, device in ((self.namespaces[rank], "eth0"), (self._switch, f"port{rank}")):
            queue = ("tc", "-n", namespace, "qdisc")
            if rate == 0:
                subprocess.run([*queue, "del", "dev", device, "root"], capture_output=True, check=False)
                continue
            burst = max(BURST, round(rate * BURST_SECONDS))
            shape = ("tbf", "rate", f"{round(rate * 8)}bit", "burst", str(burst), "latency", QUEUE)
            command(*queue, "replace", "dev", device, "root", *shape)

    def traffic(self) -> tuple[Traffic, ...]:
        """What went over every link since it was made, by the counters of the switch's ports."""
        counters = {
            link["ifname"]: link["stats64"]
            for link in json.loads(command("ip", "-n", self._switch, "-s", "-j", "link", "show"))
        }
        ports = [counters[f"port{rank}"] for rank in range(len(self._names))]
        return tuple(
            Traffic(host=name, sent=port["rx"]["bytes"], received=port["tx"]["bytes"])
            for name, port in zip(self._names, ports, strict=True)
        )

    def remove(self) -> None:
        """Deletes the namespaces, and with them the links."""
        for namespace in (self._switch, *self.namespaces):
            remove_namespace(namespace)

    def _connect(self, rank: int, rate: BytesPerSecond) -> None:
        host, port = self.namespaces[rank], f"port{rank}"
        peer = ("peer", "name", "eth0", "netns", host)
        command("ip", "-n", self._switch, "link", "add", port, "type", "veth", *peer)
        command("ip", "-n", self._switch, "link", "set", port, "master", "bridge", "up")
        command("ip", "-n", host, "address", "add", f"{self.address(rank)}/16", "dev", "eth0")
        command("ip", "-n", host, "link", "set", "eth0", "up")
        self.set_rate(rank, rate)


class CommandError(Exception):
    """A command of the system failed; says which, and what it said."""


def command(*words: str) -> str:
    """Runs a command of the system; returns what it printed.

    Raises:
        CommandError: it failed, or is not there.
    """
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise CommandError(f"{words[0]} is not installed") from None
    if done.returncode:
        raise CommandError(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def remove_namespace(namespace: str) -> None:
    """Deletes a namespace; nothing where it is gone already."""
    subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)


def namespaces_named(prefix: str) -> list[str]:
    """Namespaces whose name begins so."""
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False)
    names = [line.split()[0] for line in done.stdout.splitlines() if line]
    return [name for name in names if name.startswith(prefix)]
