"""Where workers can stand: processes × threads on the cores of CPU hosts, or one process per accelerator."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice

from meshwright.cost import Worker, host_names
from meshwright.hardware import Cluster, Host
from meshwright.plan._goal import Pins


def layouts(cluster: Cluster, pins: Pins) -> Iterator[tuple[Worker, ...]]:
    """Every way to place workers that agrees with the pins, fewest workers first.

    A host's accelerators are used where the cluster has any; its processor then only feeds them. Hosts join whole:
    one of them, or all with the same number of workers each.
    """
    hosts = training_hosts(cluster)
    on_cpu = hosts[0].device.kind == "cpu"
    yield from _processor_layouts(hosts, pins) if on_cpu else _accelerator_layouts(hosts, pins)


def training_hosts(cluster: Cluster) -> tuple[Host, ...]:
    """The hosts whose devices train: those with accelerators, or all where there are none."""
    accelerated = tuple(host for host in cluster.hosts if host.device.kind != "cpu")
    return accelerated or cluster.hosts


@lru_cache(maxsize=4096)
def divisors(number: int) -> tuple[int, ...]:
    """All divisors in ascending order."""
    return tuple(candidate for candidate in range(1, number + 1) if number % candidate == 0)


def doublings(limit: int) -> tuple[int, ...]:
    """1, 2, 4, … up to `limit`, and `limit` itself."""
    powers = {1 << exponent for exponent in range(limit.bit_length()) if 1 << exponent <= limit}
    return tuple(sorted(powers | {limit}))


def _processor_layouts(hosts: Sequence[Host], pins: Pins) -> Iterator[tuple[Worker, ...]]:
    machines = [(name, host.device.cores) for host in hosts for name in host_names(host)]
    cores = min(count for _, count in machines)
    for num_machines in dict.fromkeys((1, len(machines))):
        used = machines[:num_machines]
        for processes in _process_counts(cores, num_machines, pins):
            for threads in _thread_counts(cores // processes, pins):
                yield _pinned_workers(used, processes=processes, threads=threads)


def _process_counts(cores: int, num_machines: int, pins: Pins) -> tuple[int, ...]:
    if pins.workers is None:
        return divisors(cores)
    whole, rest = divmod(pins.workers, num_machines)
    return (whole,) if not rest and 1 <= whole <= cores else ()


def _thread_counts(limit: int, pins: Pins) -> tuple[int, ...]:
    if pins.threads is None:
        return doublings(limit)
    return (pins.threads,) if 1 <= pins.threads <= limit else ()


def _pinned_workers(machines: Sequence[tuple[str, int]], *, processes: int, threads: int) -> tuple[Worker, ...]:
    return tuple(
        Worker(
            rank=place * processes + local,
            host=name,
            device="cpu",
            threads=threads,
            cores=tuple(range(local * threads, (local + 1) * threads)),
        )
        for place, (name, _) in enumerate(machines)
        for local in range(processes)
    )


def _accelerator_layouts(hosts: Sequence[Host], pins: Pins) -> Iterator[tuple[Worker, ...]]:
    total = sum(host.count * host.devices for host in hosts)
    counts = doublings(total) if pins.workers is None else (pins.workers,)
    for count in counts:
        if 1 <= count <= total:
            yield tuple(
                Worker(rank=rank, host=name, device=device, threads=1)
                for rank, (name, device) in enumerate(islice(_places(hosts), count))
            )


def _places(hosts: Sequence[Host]) -> Iterator[tuple[str, str]]:
    """Every accelerator: its host's name and torch's name of it."""
    for host in hosts:
        for name in host_names(host):
            for index in range(host.devices):
                yield name, f"{host.device.kind}:{index}"
