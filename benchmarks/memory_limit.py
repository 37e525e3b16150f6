"""Does a model train that no worker's memory holds? Hosts with a memory limit each, on this machine.

    python benchmarks/memory_limit.py [--quick] [--json] [--rows state activations sequence unequal]

Three GPTs on four hosts: of `state`, parameters, gradients and Adam's state exceed a host's memory; of `activations`,
the output over a large vocabulary does; of `sequence`, one of 8,192 positions, split by `context=4`. Data parallelism
cannot share out one sequence. For each the same script trains on one device without a limit, under the plan that
`meshwright run` makes for four hosts, nothing else pinned, and by DDP. The hosts are namespaces and control groups
(`testbed`), without swap. Checks: the loss falls and is the one device's; DDP is ended by the kernel.
`unequal`: two hosts, the second with less memory. Sharded parameters train with the shards that the planner gives them;
with equal shards, which it would refuse, the kernel ends the run.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meshwright.hardware import Cluster, here, write_cluster
from meshwright.plan import Plan, read_plan
from meshwright.units import MIB, Bytes, format_bytes
from outcome import Check, at_most, machine, publish
from testbed import Testbed, host_command, obstacle
from testbed_description import Description, HostDescription

CONTESTANT = Path(__file__).with_name("memory_limit_contestant.py")
_LOSS = re.compile(r"^step \d+: loss ([0-9.]+|nan|inf)$", re.MULTILINE)
# What a host's launcher and its agent hold beside the worker; the cluster file leaves it out of a host's memory.
LAUNCHER: Bytes = 320 * MIB
CLOSE = 1e-4
PATIENCE = 420.0  # s


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A model and the memory of a host.

    Args:
        name: of the row.
        sizes: width, layers, batch, length, vocabulary.
        memory: of each host, with launcher and agent (B).
        pins: choices that are not the planner's.
    """

    name: str
    sizes: tuple[int, int, int, int, int]
    memory: tuple[Bytes, ...]
    pins: tuple[str, ...] = ()


CASES = (
    Case(name="state", sizes=(768, 6, 4, 128, 4000), memory=(1100 * MIB,) * 4),
    Case(name="activations", sizes=(256, 4, 1, 2048, 48000), memory=(1700 * MIB,) * 4),
    Case(name="sequence", sizes=(128, 4, 1, 8192, 4000), memory=(1050 * MIB,) * 4, pins=("context=4",)),
    Case(
        name="unequal", sizes=(768, 12, 4, 64, 4000), memory=(2200 * MIB, 1100 * MIB),
        pins=("workers=2", "sharding=parameters"),
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a way ended.

    Args:
        status: exit status of host 0's command.
        losses: of every step.
        killed: processes that the kernel ended for lack of memory, over all hosts.
        peak: most memory of a host (B).
        duration: planning and all (s).
        output: of host 0.
    """

    status: int
    losses: tuple[float, ...]
    killed: int
    peak: Bytes
    duration: float
    output: str


def alone(words: Sequence[str]) -> tuple[float, ...]:
    """Losses of the script on this machine, without a limit."""
    done = subprocess.run(
        [sys.executable, str(CONTESTANT), "plain", *words], capture_output=True, text=True, check=True
    )
    return losses_in(done.stdout)


def losses_in(text: str) -> tuple[float, ...]:
    """The losses that a contestant printed."""
    return tuple(float(value) for value in _LOSS.findall(text))


def on_hosts(case: Case, words: Sequence[str], folder: Path) -> Outcome:
    """Runs a command on all hosts until all have ended, or one of them failed a while ago."""
    hosts = tuple(
        HostDescription(name=f"host-{rank}", cores=(rank % (os.cpu_count() or 1),), memory=f"{memory // MIB}MiB")
        for rank, memory in enumerate(case.memory)
    )
    description = Description(hosts=hosts)
    begun = time.monotonic()
    outputs = [folder / f"{case.name}-{len(words)}-{rank}.log" for rank in range(len(hosts))]
    with Testbed(description) as bed:
        processes = []
        for rank, output in enumerate(outputs):
            own = host_command(words, rank=rank, description=description)
            with output.open("wb") as file:
                processes.append(bed.start(rank, own, output=file, errors=subprocess.STDOUT))
        deadline = begun + PATIENCE
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            if any(process.returncode for process in processes):
                deadline = min(deadline, time.monotonic() + 20.0)
            time.sleep(0.2)
        memory = [bed.memory(rank) for rank in range(len(hosts))]
        status = processes[0].poll()
    text = outputs[0].read_text(encoding="utf-8", errors="replace")
    return Outcome(
        status=-1 if status is None else status, losses=losses_in(text), killed=sum(one.killed for one in memory),
        peak=max(one.peak for one in memory), duration=time.monotonic() - begun, output=text,
    )  # fmt: skip


def planned_run(
    case: Case, words: Sequence[str], folder: Path, *, pins: Sequence[str], told: Sequence[Bytes]
) -> tuple[Outcome, Plan | None]:
    """`meshwright run` on the hosts, which plans by itself, and the plan that it made.

    Args:
        pins: choices that are not its own.
        told: memory of each host as the planner knows it (B).
    """
    file, runs = folder / f"{case.name}-{len(pins)}.toml", folder / f"{case.name}-{len(pins)}-runs"
    write_cluster(cluster_of(told), file)
    command = [str(Path(sys.executable).with_name("meshwright")), "run", "--cluster", str(file), "--output", str(runs)]
    command += [word for pin in pins for word in ("--set", pin)]
    outcome = on_hosts(case, [*command, str(CONTESTANT), "meshwright", *words], folder)
    plans = sorted(runs.glob("*/plan.toml"))
    return outcome, read_plan(plans[0]) if plans else None


def cluster_of(memory: Sequence[Bytes]) -> Cluster:
    """This machine as hosts of one core each, with so much memory for a run and its launcher."""
    known = here()
    hosts = tuple(
        replace(
            known.hosts[-1], name=f"host-{rank}",
            device=replace(known.hosts[-1].device, cores=1, memory=size - LAUNCHER),
        )
        for rank, size in enumerate(memory)
    )  # fmt: skip
    if len(set(memory)) == 1:
        hosts = (replace(hosts[0], name="host", count=len(memory)),)
    return replace(known, name="limited", hosts=hosts)


def rival_run(case: Case, words: Sequence[str], folder: Path) -> Outcome:
    """DDP; where hosts differ, the same run with equal shards, by a planner that takes all hosts for the largest."""
    if len(set(case.memory)) == 1:
        return ddp_run(case, words, folder)
    told = (max(case.memory) * 2,) * len(case.memory)
    return planned_run(case, words, folder, pins=(*case.pins, "shards=equal"), told=told)[0]


def ddp_run(case: Case, words: Sequence[str], folder: Path) -> Outcome:
    """torch's own data parallelism on the hosts."""
    agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "{hosts}", "--node-rank", "{rank}",
             "--nproc-per-node", "1", "--master-addr", "{address}", "--master-port", "{port}"]  # fmt: skip
    return on_hosts(case, [*agent, str(CONTESTANT), "ddp", *words], folder)


def row_of(case: Case, *, steps: int, folder: Path) -> tuple[dict[str, Any], list[Check]]:
    """One model: its three ways and what they have to do."""
    words = [str(size) for size in (*case.sizes, steps)]
    wanted = alone(words)
    found, plan = planned_run(case, words, folder, pins=case.pins, told=case.memory)
    rival = rival_run(case, words, folder)
    complete = len(found.losses) == len(wanted)
    apart = (
        max(abs(one - other) / abs(other) for one, other in zip(found.losses, wanted, strict=True))
        if complete
        else float("inf")
    )
    if found.status:
        print(found.output, file=sys.stderr)
    row = {
        "model": case.name,
        "memory of a host": ", ".join(format_bytes(size) for size in dict.fromkeys(case.memory)),
        "plan": plan.strategy.summary if plan is not None else "none",
        "predicted peak of a worker": format_bytes(plan.prediction.memory.peak) if plan is not None else "–",
        "peak of a host": format_bytes(found.peak),
        "first loss": found.losses[0] if found.losses else float("nan"),
        "last loss": found.losses[-1] if found.losses else float("nan"),
        "seconds": found.duration,
        "rival": rival_name(case),
        "rival: peak of a host": format_bytes(rival.peak),
        "rival: ended by the kernel": rival.killed,
    }
    falls = complete and found.losses[-1] < found.losses[0]
    return row, [
        Check(name=f"{case.name}: exit status", value=found.status, target="0", holds=found.status == 0),
        Check(name=f"{case.name}: steps", value=len(found.losses), target=f"{steps}, falling loss", holds=falls),
        at_most(f"{case.name}: loss from one device's, relative", apart, CLOSE),
        Check(
            name=f"{case.name}: processes ended for lack of memory ({rival_name(case)})",
            value=rival.killed,
            target=">= 1, no loss",
            holds=rival.killed >= 1 and rival.status != 0,
        ),
    ]  # fmt: skip


def rival_name(case: Case) -> str:
    """What the planned run is compared with."""
    return "DDP" if len(set(case.memory)) == 1 else "equal shards"


def main(arguments: Sequence[str]) -> int:
    """Reads the command line, runs, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="two steps of one model")
    parser.add_argument("--rows", nargs="+", choices=[case.name for case in CASES], help="which models")
    options = parser.parse_args(arguments)
    if reason := obstacle():
        sys.exit(f"no testbed here: {reason}")
    names = options.rows or (["activations"] if options.quick else [case.name for case in CASES])
    there, rows, checks = machine(), [], []
    with tempfile.TemporaryDirectory(prefix="memory-limit-") as folder:
        for case in (case for case in CASES if case.name in names):
            row, own = row_of(case, steps=2 if options.quick else 6, folder=Path(folder))
            rows.append(row)
            checks += own
    return publish(rows, checks, there=there, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
