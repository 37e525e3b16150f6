"""Measures collectives between processes of this host.

    python -m meshwright.exchange.measure --workers 2 --threads 1 --transport gloo --transport shared_memory

Prints one JSON object per line on standard output, with the fields of `hardware.CollectiveRate`:

    {"collective": "all_reduce", "transport": "gloo", "group": 2, "latency": 0.00017, "bandwidth": 820000000.0}

`latency` is the time of 4 KiB (s); `bandwidth` is payload over time between 4 KiB and `--size` bytes (B/s), where the
payload is the whole tensor: what is summed or broadcast, what is gathered, what is scattered. Medians of the slowest
worker. Takes about a second per transport after loading torch. Errors go to standard error, with exit code 1.

A module to run, not to import: the probe of `hardware` lies below this room and starts it as a program.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from meshwright.documents import to_json
from meshwright.errors import MeshwrightError
from meshwright.exchange._process_group import ProcessGroupTransport
from meshwright.exchange._shared_memory import SharedMemoryTransport
from meshwright.exchange._transport import Transport
from meshwright.hardware import CollectiveName, CollectiveRate
from meshwright.units import KIB, MIB, Bytes, Seconds

SMALL: Bytes = 4 * KIB
TRANSPORTS = ("gloo", "nccl", "shared_memory")
BUDGET: Seconds = 0.25
# Given a size and a device: the collective of a tensor of that size, to be called again and again.
_Prepared = Callable[[Bytes, torch.device], Callable[[], None]]
_PROCESS = "MESHWRIGHT_MEASURE_RANK"


def main(arguments: Sequence[str] | None = None) -> int:
    """Starts the workers and passes their lines on; in a worker, measures."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _options(given)
    try:
        if _PROCESS in os.environ:
            _measure(options, rank=int(os.environ[_PROCESS]))
            return 0
        return _start(options, given)
    except MeshwrightError as error:
        print(error, file=sys.stderr)
        return 1


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m meshwright.exchange.measure", description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="processes, at least 2")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--transport", action="append", choices=TRANSPORTS, help="may be given several times")
    parser.add_argument("--size", type=int, default=16 * MIB, help="bytes of the large message")
    parser.add_argument("--store", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.transport = options.transport or ["gloo", "shared_memory"]
    return options


def _start(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="meshwright-") as folder:
        command = [sys.executable, "-m", "meshwright.exchange.measure", *arguments, "--store", f"{folder}/store"]
        workers = [
            subprocess.Popen(command, env={**os.environ, _PROCESS: str(rank)}) for rank in range(options.workers)
        ]
        try:
            while any(worker.poll() is None for worker in workers):
                if any(worker.poll() for worker in workers):
                    return 1
                time.sleep(0.01)
            return max(abs(worker.returncode) for worker in workers)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()


def _measure(options: argparse.Namespace, *, rank: int) -> None:
    torch.set_num_threads(options.threads)
    store = Path(options.store).as_uri()
    backend = "nccl" if "nccl" in options.transport else "gloo"
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    dist.init_process_group(backend, init_method=store, rank=rank, world_size=options.workers)
    try:
        for name in options.transport:
            transport = SharedMemoryTransport() if name == "shared_memory" else ProcessGroupTransport(backend=name)
            for collective, call in _calls(transport, name).items():
                rate = _rate(call, collective, transport=name, device=device, size=options.size)
                if rank == 0:
                    print(to_json(rate), flush=True)
            transport.close()
    finally:
        dist.destroy_process_group()


def _calls(transport: Transport, name: str) -> dict[CollectiveName, _Prepared]:
    def all_reduce(size: Bytes, device: torch.device) -> Callable[[], None]:
        tensor = transport.allocate(size // 4, torch.float32, device)
        return lambda: transport.all_reduce(tensor).wait()

    def broadcast(size: Bytes, device: torch.device) -> Callable[[], None]:
        tensor = torch.zeros(size // 4, device=device)
        return lambda: transport.broadcast(tensor, root=0).wait()

    def all_gather(size: Bytes, device: torch.device) -> Callable[[], None]:
        part, whole = _part_and_whole(size, transport.size, device)
        return lambda: dist.all_gather_single(whole, part)

    def reduce_scatter(size: Bytes, device: torch.device) -> Callable[[], None]:
        part, whole = _part_and_whole(size, transport.size, device)
        return lambda: dist.reduce_scatter_single(part, whole)

    calls: dict[CollectiveName, _Prepared] = {"all_reduce": all_reduce, "broadcast": broadcast}
    return calls if name == "shared_memory" else {**calls, "all_gather": all_gather, "reduce_scatter": reduce_scatter}


def _part_and_whole(size: Bytes, workers: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    part = torch.zeros(max(1, size // 4 // workers), device=device)
    return part, torch.zeros(part.numel() * workers, device=device)


def _rate(
    call: _Prepared,
    collective: CollectiveName,
    *,
    transport: str,
    device: torch.device,
    size: Bytes,
) -> CollectiveRate:
    small, large = (_median(call(payload, device), device) for payload in (SMALL, size))
    return CollectiveRate(
        collective=collective,
        transport=transport,
        group=dist.get_world_size(),
        latency=small,
        bandwidth=(size - SMALL) / max(large - small, 1e-9),
    )


def _median(run: Callable[[], None], device: torch.device) -> Seconds:
    """Median time of a collective on the slowest worker, over a fixed time of measuring."""
    run()
    durations = [_timed(run, device)]
    repeats = torch.tensor([min(500, max(5, int(BUDGET / 2 / durations[0])))], device=device)
    dist.broadcast(repeats, src=0)
    durations = [_timed(run, device) for _ in range(int(repeats))]
    slowest = torch.tensor([statistics.median(durations)], dtype=torch.float64, device=device)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return float(slowest)


def _timed(run: Callable[[], None], device: torch.device) -> Seconds:
    started = time.perf_counter()
    run()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
