"""The hosts that run together."""

import socket
from dataclasses import dataclass, replace

from meshwright.errors import PlanError, UsageError, WorkerError
from meshwright.hardware import Cluster
from meshwright.plan import Plan, hosts_of

LOCAL_ADDRESS = "127.0.0.1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Hosts:
    """The hosts that run together, and this one's place among them.

    Args:
        count: how many.
        rank: this one's number.
        address: name of host 0, which the others can reach.
        port: of host 0, where the agents meet; 0: any free one.
    """

    count: int = 1
    rank: int = 0
    address: str = LOCAL_ADDRESS
    port: int = 0


ONE_HOST = Hosts()


def parse_rendezvous(text: str) -> tuple[str, int]:
    """Host name and port of `HOST:PORT`.

    Raises:
        UsageError: it is not written so.
    """
    address, _, port = text.rpartition(":")
    if not address or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(
            f"{text!r} is no rendezvous",
            cause="it says where the hosts meet: HOST:PORT, a name or address of the first host and a free port of it",
            command="meshwright run --nodes 2 --rendezvous first-host:29500 SCRIPT",
        )
    return address.strip("[]"), int(port)


def check_port(hosts: Hosts) -> None:
    """Refuses a rendezvous whose port somebody else has, before anything is started.

    Raises:
        WorkerError: host 0 cannot listen there.
    """
    if hosts.rank != 0 or hosts.port == 0:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", hosts.port))
        except OSError as error:
            raise WorkerError(
                f"port {hosts.port} cannot be used: {error.strerror}",
                cause="host 0 listens there for the others; another program, or a run that has not ended, has it",
                alternatives=["another port, the same on every host: --rendezvous HOST:PORT"],
                command=f"ss -ltnp 'sport = :{hosts.port}'",
            ) from None


def spread_over(cluster: Cluster, *, num_hosts: int) -> Cluster:
    """The cluster of a number of hosts; a cluster of one host stands for that many equal ones."""
    if num_hosts <= sum(host.count for host in cluster.hosts):
        return cluster
    return replace(cluster, hosts=(replace(cluster.hosts[0], count=num_hosts),))


def workers_per_host(plan: Plan, *, num_hosts: int) -> tuple[int, ...]:
    """How many workers of a plan each host runs; none on the last ones where the plan needs fewer hosts.

    Raises:
        PlanError: the plan needs more hosts than there are.
    """
    order = hosts_of(plan.strategy)
    if len(order) > num_hosts:
        raise PlanError(
            f"the plan puts {plan.strategy.num_workers} workers on {len(order)} hosts, and {num_hosts} were started",
            cause="each host's agent starts the workers that the plan names for it",
            alternatives=[
                f"start {len(order)}: --nodes {len(order)}",
                "plan for the hosts there are: leave out --plan",
            ],
        )
    return tuple(map(len, order.values())) + (0,) * (num_hosts - len(order))


def check_devices(plan: Plan, cluster: Cluster) -> None:
    """Refuses a plan for devices that are not there.

    Raises:
        PlanError: names both kinds.
    """
    there = {"cpu"} | {host.device.kind for host in cluster.hosts}
    wanted = {worker.device.partition(":")[0] for worker in plan.strategy.workers}
    if wanted - there:
        raise PlanError(
            f"the plan puts {plan.strategy.num_workers} workers on devices of kind {', '.join(sorted(wanted))}, and "
            f"{cluster.name} has {', '.join(sorted(there))}",
            cause=f"it was made for {plan.cluster or 'other hardware'}",
            alternatives=["leave out --plan, so that one is made for what is there", "run it where such devices are"],
            command="meshwright run SCRIPT",
        )
