"""Processes of one host: all-reduce through shared memory beside gloo's, and a step beside DistributedDataParallel's.

Run by `exchange.py --cells one_host`; as a program it is one of the processes that sum.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

import outcome
from exchange_orders import Order, Phase, read_answer, write_orders
from meshwright.exchange import SharedMemoryTransport

HERE = Path(__file__).resolve().parent
SIZES = {"40 MB": (40_000_000, 5), "64 KB": (64_000, 100)}  # bytes, calls in a round
ROUNDS = 5
COUNTS = (2, 4)
STEPS, HALVES = 8, 3
OURS = "exact_shared_as_written"  # with torch's kernels, so that what differs is the exchange
LIMIT = 200.0  # s
PORT = 29_611


def rows() -> list[dict[str, Any]]:
    """One row for each number of processes and size, and one for each number of processes and step."""
    found: list[dict[str, Any]] = []
    for count in COUNTS:
        found += _sums(count)
        found.append(_steps(count))
    return found


def checks(found: Sequence[dict[str, Any]]) -> list[outcome.Check]:
    """A sum of 40 MB at 4 times gloo's bandwidth, of 64 KB at a quarter of its latency; no step slower than DDP's."""
    return [
        outcome.at_least(
            f"{row['processes']} processes, {row['what']}: times gloo's or DDP's speed", row["faster"], bound
        )
        for row in found
        for bound in (1.0 if row["what"] == "step" else 4.0,)
    ]


def _sums(count: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, __file__, "--size", str(count), "--folder", folder]
        _together([[*words, "--rank", str(rank)] for rank in range(count)])
        return json.loads((Path(folder) / "rows").read_text())


def _steps(count: int) -> dict[str, Any]:
    """Steps of both in turns, so that the machine's moods meet both; the median of the turns' medians."""
    seconds: dict[str, list[float]] = {"ddp": [], OURS: []}
    for _ in range(HALVES):
        for way, times in seconds.items():
            times.append(median(_phase(way, count)[1:]))
    ours, theirs = median(seconds[OURS]), median(seconds["ddp"])
    return {"processes": count, "what": "step", "seconds": ours, "other": theirs, "faster": theirs / ours}


def _phase(way: str, count: int) -> list[float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_orders(folder / "orders.json", [Order(way=way, phases=(Phase(steps=STEPS),))])
        for phase in range(2):
            (folder / f"0.{phase}.go").touch()
        words = [sys.executable, str(HERE / "exchange_contestant.py"), name, "--hosts", str(count)]
        words += ["--address", "127.0.0.1", "--port", str(PORT)]
        _together([[*words, "--rank", str(rank)] for rank in range(count)])
        return list(read_answer(folder / "0.json").seconds[0])


def _together(commands: Sequence[Sequence[str]]) -> None:
    processes = [subprocess.Popen(words) for words in commands]
    try:
        for process in processes:
            if process.wait(timeout=LIMIT):
                raise RuntimeError(f"{commands[0][1]} ended with status {process.returncode}")
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _worker(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    folder = Path(arguments.folder)
    store = dist.FileStore(str(folder / "store"), arguments.size)
    dist.init_process_group("gloo", store=store, rank=arguments.rank, world_size=arguments.size)
    transport = SharedMemoryTransport()
    found = []
    for what, (size, calls) in SIZES.items():
        shared = transport.allocate(size // 4, torch.float32, torch.device("cpu"))
        plain = torch.zeros(size // 4)

        def ours(tensor: torch.Tensor = shared) -> object:
            return transport.all_reduce(tensor).wait()

        def theirs(tensor: torch.Tensor = plain) -> object:
            return dist.all_reduce(tensor)

        mine, other = [], []
        for _ in range(ROUNDS):
            mine.append(_duration(ours, calls))
            other.append(_duration(theirs, calls))
        seconds, gloo = median(mine), median(other)
        found.append(
            {"processes": arguments.size, "what": what, "seconds": seconds, "other": gloo, "faster": gloo / seconds}
        )
    if arguments.rank == 0:
        (folder / "rows").write_text(json.dumps(found))
    transport.close()
    dist.barrier()
    dist.destroy_process_group()


def _duration(run: Callable[[], object], calls: int) -> float:
    run()
    dist.barrier()
    started = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - started) / calls


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--folder", required=True)
    _worker(parser.parse_args())
