"""One way of training one job, timed in turns: `python contestant.py WAY JOB PORT` (started by `local.py`).

Every process of a contestant connects to the referee's port and then trains only when told to, so that the contestants
of a job run in turns on a machine that is otherwise theirs.
"""

import itertools
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from models import Job, build

Step = Callable[[Any], Any]


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer as people write it."""
    return torch.optim.AdamW(model.parameters(), lr=1e-4)


def plain(job: Job) -> Step:
    """The plain PyTorch loop."""
    return _loop(job, job.model)


def compiled(job: Job) -> Step:
    """The plain loop over a compiled model."""
    return _loop(job, torch.compile(job.model))


def ddp(job: Job) -> Step:
    """Distributed data parallel; each process takes its slice of the global batch."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    step = _loop(job, nn.parallel.DistributedDataParallel(job.model))
    rank, world = dist.get_rank(), dist.get_world_size()
    return lambda batch: step(tuple(tensor.chunk(world)[rank] for tensor in batch))


def accelerate(job: Job) -> Step:
    """Hugging Face Accelerate; each process takes its slice of the global batch."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(job.model, optimizer_of(job.model))

    def step(batch: Any) -> float:
        share = tuple(tensor.chunk(accelerator.num_processes)[accelerator.process_index] for tensor in batch)
        optimizer.zero_grad()
        loss = job.loss(model, share)
        accelerator.backward(loss)
        optimizer.step()
        return loss.item()

    return step


def meshwright(job: Job) -> Step:
    """The three lines of Meshwright."""
    import meshwright as mw

    step = mw.parallel(job.model, optimizer_of(job.model), job.loss)
    return lambda batch: step(batch).item()


def _loop(job: Job, model: nn.Module) -> Step:
    optimizer = optimizer_of(job.model)

    def step(batch: Any) -> float:
        optimizer.zero_grad()
        loss = job.loss(model, batch)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


WAYS: dict[str, Callable[[Job], Step]] = {
    "plain": plain, "plain_again": plain, "plain_third": plain, "compiled": compiled, "ddp": ddp,
    "accelerate": accelerate, "meshwright": meshwright, "meshwright_one": meshwright,
    "meshwright_one_again": meshwright, "meshwright_one_third": meshwright,
}  # fmt: skip


def serve(step: Step, batches: list[Any], port: int) -> None:
    """Trains as many steps as the referee says, each time it says so, until it hangs up."""
    endless = itertools.cycle(batches)
    for _ in range(3):
        step(next(endless))
    hello = {"rank": int(os.environ.get("RANK", "0")), "world": int(os.environ.get("WORLD_SIZE", "1"))}
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rw") as stream:
        print(json.dumps(hello), file=stream, flush=True)
        for line in stream:
            began = time.perf_counter()
            for _ in range(int(line)):
                step(next(endless))
            print(json.dumps(time.perf_counter() - began), file=stream, flush=True)


if __name__ == "__main__":
    way, name, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    chosen, data = build(name)
    serve(WAYS[way](chosen), data, port)
