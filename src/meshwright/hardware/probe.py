"""Measures this machine: `python -m meshwright.hardware.probe OUT.toml` prints what it is doing and writes a cluster.

The order matters: followers are forked while torch has no threads yet; the processor is timed before accelerators
have made theirs.
"""

import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch

from meshwright.documents import write_toml
from meshwright.hardware._cluster import Cluster, CollectiveRate, Host, Link, Tier
from meshwright.hardware._device import Device
from meshwright.hardware._identity import identity, load_now, memory_limit, processor_name, usable_cores
from meshwright.hardware.probe_accelerator import accelerator, accelerator_backend, num_accelerators
from meshwright.hardware.probe_collectives import collective_rates, process_group
from meshwright.hardware.probe_processor import processor_rates, thread_counts
from meshwright.hardware.probe_staged import staged_rates
from meshwright.hardware.probe_training import load_optimizer, tiny_step
from meshwright.hardware.probe_transports import transport_rates
from meshwright.hardware.probe_workers import Crew, Member, SpawnContext, crew, fastest_context
from meshwright.units import MIB, Bytes, Seconds

PROCESSOR_TIME: Seconds = 9.0  # all timed pieces of work together, whatever the number of cores
ACCELERATOR_PIECE: Seconds = 0.05
ROUNDS = 2
LARGEST_GROUP = 8  # processes that exchange tensors while that is measured

Progress = Callable[[str], object]


def measure(progress: Progress, *, time: Seconds = PROCESSOR_TIME, rounds: int = ROUNDS) -> Cluster:
    """This machine as a cluster of one host, measured under the load there is.

    Args:
        progress: told what is being measured, in a line.
        time: to spend on timing the processor, more or less (s).
        rounds: how often everything is timed; of each thing the best is kept.
    """
    load = load_now(interval=0.5)
    progress(f"other processes use {load:.0%} of the processor")
    processor, collectives = measure_processor(progress, time=time, rounds=rounds)
    connections = links("process", collectives)
    name = platform.node() or "localhost"
    hosts = [Host(name=name, device=processor)]
    if count := num_accelerators():
        progress(f"{count} accelerator{'s' if count > 1 else ''}")
        hosts.insert(0, Host(name=name, device=accelerator(ACCELERATOR_PIECE), devices=count))
        connections += links("host", accelerator_collectives(count, progress))
    return Cluster(
        name=name,
        identity=identity(),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        load=round((load + load_now()) / 2, 3),
        hosts=tuple(hosts),
        links=connections,
    )


def measure_processor(progress: Progress, *, time: Seconds, rounds: int) -> tuple[Device, list[CollectiveRate]]:
    """The processor with its rates, and what its processes reach exchanging tensors."""
    cores = usable_cores()
    counts = thread_counts(len(cores))
    torch.set_num_threads(1)
    load_optimizer()
    with crew(len(cores), groups=counts, context=fastest_context()) as members:
        context = context_memory()
        rates = processor_rates(members, cores=cores, time=time, rounds=rounds, progress=progress)
        collectives = [
            rate
            for group in counts
            if 1 < group <= LARGEST_GROUP
            for rate in processor_collectives(members, group, rounds, progress)
        ]
    processor = Device(
        kind="cpu",
        name=processor_name(),
        cores=len(cores),
        memory=memory_limit(),
        context=context,
        source="measured",
        matrix_rates=tuple(rates.matrices),
        operation_rates=tuple(rates.operations),
    )
    return processor, collectives


def context_memory() -> Bytes:
    """Resident memory of a process that has trained a tiny model and joined a process group (B)."""
    tiny_step()
    with rendezvous() as path, process_group(Member(rank=0, group=1, together=int), "gloo", path):
        return psutil.Process().memory_info().rss


def processor_collectives(members: Crew, group: int, rounds: int, progress: Progress) -> list[CollectiveRate]:
    """Collectives between `group` processes, through gloo and through shared memory; the slowest member's rates."""
    progress(f"collectives between {group} processes")
    done = []
    for _ in range(rounds):
        with rendezvous() as path:
            done.append(slowest(members.run(group, processor_exchange, path)))
    return [min(rates, key=megabyte_time) for rates in zip(*done, strict=True)]


def processor_exchange(member: Member, path: str) -> list[CollectiveRate]:
    """Rates of gloo and of the package's own transports, also as split models use them; run by each of a group.

    Args:
        member: this process.
        path: where they meet.
    """
    torch.set_num_threads(1)
    with process_group(member, "gloo", path):
        rates = [*collective_rates(member, "gloo", torch.device("cpu")), *transport_rates(member)]
        return [*rates, *staged_rates(member)]


def accelerator_exchange(member: Member, path: str, backend: str, kind: str) -> list[CollectiveRate]:
    """Rates of the accelerators' own collectives; run by a process for each of them."""
    torch.accelerator.set_device_index(member.rank)
    with process_group(member, backend, path):
        return collective_rates(member, backend, torch.device(kind, member.rank))


def accelerator_collectives(count: int, progress: Progress) -> list[CollectiveRate]:
    """Collectives between all accelerators of this host; none where there is only one."""
    if count == 1:
        return []
    progress(f"collectives between {count} accelerators")
    backend, kind = accelerator_backend()
    with crew(count, groups=[count], context=SpawnContext()) as members, rendezvous() as path:
        return slowest(members.run(count, accelerator_exchange, path, backend, kind))


def slowest(results: list[list[CollectiveRate]]) -> list[CollectiveRate]:
    """Of each collective the rate of the member that waited longest: a step goes on when all have finished."""
    return [max(rates, key=megabyte_time) for rates in zip(*results, strict=True)]


def megabyte_time(rate: CollectiveRate) -> Seconds:
    """Time of a message that both latency and bandwidth matter to; what rates are compared by (s)."""
    return rate.latency + MIB / rate.bandwidth


def links(tier: Tier, collectives: list[CollectiveRate]) -> tuple[Link, ...]:
    """The link that these collectives were measured over; its own figures are those of the fastest all-reduce."""
    reductions = [rate for rate in collectives if rate.collective == "all_reduce"]
    if not reductions:
        return ()
    best = max(reductions, key=lambda rate: rate.bandwidth)
    return (Link(tier=tier, latency=best.latency, bandwidth=best.bandwidth, collectives=tuple(collectives)),)


@contextmanager
def rendezvous() -> Iterator[str]:
    """Path of a file that does not exist yet, in a folder of its own that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="meshwright-probe-") as place:
        yield str(Path(place) / "meeting")


def main(arguments: list[str]) -> int:
    """Measures and writes; one line of progress per thing measured."""
    if len(arguments) != 1:
        print("usage: python -m meshwright.hardware.probe OUT.toml", file=sys.stderr)
        return 2
    write_toml(measure(lambda line: print(line, flush=True)), Path(arguments[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
