"""This machine as more workers than cores see it: each with its part of every rate, and exchanges as a crowd has them.

A worker that waits for its peers waits also for their turn on a core, once for every exchange: the scheduler lets who
computes go on for a few milliseconds. No figure of fewer workers tells how long, so that the probe of exchanges beside
computing is run again by as many processes, all groups of a size at the same time:

    python benchmarks/crowded_machine.py WORKERS        # prints the rates as JSON
"""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from functools import cache
from typing import TYPE_CHECKING

from meshwright.hardware import Cluster, CollectiveRate

if TYPE_CHECKING:
    from meshwright.hardware.probe_workers import Member


def taking_turns(
    cluster: Cluster, workers: int, *, idle: float = 0.0, crowd: tuple[CollectiveRate, ...] = ()
) -> Cluster:
    """The machine as more workers than cores see it: every rate of one thread times the part of a core that it has.

    A worker that waits for its neighbours leaves its core to the others. It has no identity, so that plans for it are
    searched and not tried.

    Args:
        workers: that share the cores.
        idle: share of their time in which they wait (0 to 1).
        crowd: collectives as measured among so many workers, instead of what fewer workers reach.
    """
    host = cluster.hosts[-1]
    cores = host.device.cores
    part = min(1.0, cores / (workers * (1 - idle)))
    device = replace(
        host.device,
        cores=workers,
        matrix_rates=tuple(replace(row, rate=row.rate * part) for row in host.device.matrix_rates if row.threads == 1),
        operation_rates=tuple(
            replace(row, bandwidth=row.bandwidth * part, overhead=row.overhead / part)
            for row in host.device.operation_rates
            if row.threads == 1
        ),
    )
    known = {row.transport for row in crowd}
    links = tuple(
        replace(
            link,
            collectives=(
                *(
                    replace(row, bandwidth=row.bandwidth * part, latency=row.latency / part)
                    for row in link.collectives
                    if row.transport not in known
                ),
                *(crowd if link.collectives else ()),
            ),
        )
        for link in cluster.links
    )
    return replace(
        cluster,
        name=f"{workers} workers on {cores} cores",
        identity="",
        hosts=(replace(host, device=device),),
        links=links,
    )


@cache
def crowd_rates(workers: int) -> tuple[CollectiveRate, ...]:
    """What exchanges beside computing take among so many processes, measured by a process of its own."""
    done = subprocess.run([sys.executable, __file__, str(workers)], capture_output=True, text=True, check=True)
    return tuple(CollectiveRate(**row) for row in json.loads(done.stdout))


def measured_rates(workers: int) -> list[CollectiveRate]:
    """Of groups of each size that divides the workers, all at once; the rate of the member that waited longest."""
    from meshwright.hardware.probe import rendezvous, slowest
    from meshwright.hardware.probe_workers import crew, fastest_context

    found: list[CollectiveRate] = []
    with crew(workers, groups=[workers], context=fastest_context()) as members:
        for group in (size for size in range(2, workers + 1) if workers % size == 0):
            with rendezvous() as path:
                found += slowest(members.run(workers, rates_in_group, path, group))
    return found


def rates_in_group(member: "Member", path: str, group: int) -> list[CollectiveRate]:
    """Rates of one of the groups; run by every worker.

    Args:
        member: this process, of all workers.
        path: where they meet, each group with its number.
        group: workers of each.
    """
    import torch

    from meshwright.hardware.probe_collectives import process_group
    from meshwright.hardware.probe_staged import staged_rates

    torch.set_num_threads(1)
    part = replace(member, rank=member.rank % group, group=group)
    with process_group(part, "gloo", f"{path}-{member.rank // group}"):
        member.together()
        return staged_rates(part)


if __name__ == "__main__":
    print(json.dumps([asdict(row) for row in measured_rates(int(sys.argv[1]))]))
