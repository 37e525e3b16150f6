"""TCP connections between every two workers of a group, found and proven without knowing the network."""

import secrets
import socket
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from os import environ

import psutil
import torch.distributed as dist

from meshwright.errors import WorkerError
from meshwright.exchange.shared_memory import host_identity
from meshwright.units import Seconds

CONNECTING: Seconds = 5.0
ANSWERING: Seconds = 60.0
# Who connects says the group's secret and its rank; who accepts says its own rank back.
HELLO = struct.Struct("<16sI")
ANSWER = struct.Struct("<I")


def connect_all(group: dist.ProcessGroup | None = None) -> dict[int, socket.socket]:
    """A connection to every other worker, by rank; all workers of the group call it at the same time.

    Each worker listens on a free port and tells the others all addresses of its host, the likeliest first. They try
    them in turn; the secret, drawn anew every time, tells whether the one who answers is the one who was meant.

    Raises:
        WorkerError: a worker cannot be reached at any of its addresses.
    """
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    with closing(_listening()) as server:
        own = (secrets.token_bytes(16), host_identity(), _addresses(), server.getsockname()[1])
        told: list[tuple[bytes, str, list[str], int]] = [own] * size
        dist.all_gather_object(told, own, group=group)
        secret = told[0][0]
        with ThreadPoolExecutor(1) as beside:
            accepting = beside.submit(_accepted, server, secret, rank, count=size - 1 - rank)
            connected = {
                peer: _connected(secret, rank, peer, ["127.0.0.1"] if host == own[1] else addresses, port)
                for peer, (_, host, addresses, port) in enumerate(told[:rank])
            }
            return connected | accepting.result()


def _listening() -> socket.socket:
    with suppress(OSError):
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _accepted(server: socket.socket, secret: bytes, rank: int, *, count: int) -> dict[int, socket.socket]:
    """Connections of the workers of higher rank; whoever does not know the secret is hung up on."""
    accepted: dict[int, socket.socket] = {}
    server.settimeout(ANSWERING)
    while len(accepted) < count:
        try:
            connection, _ = server.accept()
        except TimeoutError:
            raise WorkerError(
                f"{count - len(accepted)} workers did not connect to worker {rank} for {ANSWERING:.0f} s",
                cause="they have ended, or a firewall keeps them from this host's ports",
                alternatives=["--set transport=gloo", "set GLOO_SOCKET_IFNAME to the interface between the hosts"],
            ) from None
        connection.settimeout(CONNECTING)
        with suppress(OSError, struct.error):
            said, peer = HELLO.unpack(connection.recv(HELLO.size, socket.MSG_WAITALL))
            if secrets.compare_digest(said, secret):
                connection.sendall(ANSWER.pack(rank))
                accepted[peer] = _ready(connection)
                continue
        connection.close()
    return accepted


def _connected(secret: bytes, rank: int, peer: int, addresses: Sequence[str], port: int) -> socket.socket:
    """A connection to a worker of lower rank."""
    tried = []
    for address in addresses:
        try:
            connection = socket.create_connection((address, port), timeout=CONNECTING)
        except OSError as error:
            tried.append(f"{address}: {error.strerror or error}")
            continue
        connection.settimeout(ANSWERING)
        with suppress(OSError, struct.error):
            connection.sendall(HELLO.pack(secret, rank))
            if ANSWER.unpack(connection.recv(ANSWER.size, socket.MSG_WAITALL)) == (peer,):
                return _ready(connection)
        connection.close()
        tried.append(f"{address}: somebody else answered")
    raise WorkerError(
        f"worker {rank} cannot reach worker {peer} on port {port}",
        cause="; ".join(tried) or "its host has no address but its own loopback",
        alternatives=["--set transport=gloo", "set GLOO_SOCKET_IFNAME to the interface between the hosts"],
    )


def _ready(connection: socket.socket) -> socket.socket:
    """A host that vanishes without a word is noticed after some 40 s."""
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 6)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return connection


def _addresses() -> list[str]:
    """This host's addresses that another host may reach, the likeliest first."""
    return list(dict.fromkeys(address for address in _candidates() if not address.startswith(("127.", "::1", "fe80"))))


def _candidates() -> Iterator[str]:
    """Of the interface that gloo is told to use; towards the meeting place; of the host's name; all others."""
    families = (socket.AF_INET, socket.AF_INET6)
    interfaces = {
        name: [entry.address for entry in entries if entry.family in families]
        for name, entries in psutil.net_if_addrs().items()
    }
    for name in environ.get("GLOO_SOCKET_IFNAME", "").split(","):
        yield from interfaces.get(name, [])
    store = dist.distributed_c10d._get_default_store()
    while isinstance(store, dist.PrefixStore):
        store = store.underlying_store
    if isinstance(store, dist.TCPStore):
        with suppress(OSError):
            found = socket.getaddrinfo(store.host, 9, type=socket.SOCK_DGRAM)[0]
            with socket.socket(found[0], socket.SOCK_DGRAM) as probe:
                probe.connect(found[4])
                yield probe.getsockname()[0]
    with suppress(OSError):
        yield socket.gethostbyname(socket.gethostname())
    for addresses in interfaces.values():
        yield from addresses
