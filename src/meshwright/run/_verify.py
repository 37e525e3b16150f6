"""`mw.verify`: a plan compared with the one-device program, on copies of the user's model and optimizer."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from meshwright.cost import Batch, Exchange, Mesh, Strategy, Verification, Worker
from meshwright.documents import read_toml
from meshwright.graph.capture_batch import batch_size
from meshwright.plan import Plan
from meshwright.run._cast import cast_batch, cast_job
from meshwright.run._job import Job, Loss, loss_of_model
from meshwright.run._proof import Proof
from meshwright.run._role import Role


def verify(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss | None,
    batches: Iterable[Any],
    *,
    plan: Plan | Strategy | str | Path | None = None,
    steps: int = 3,
    dtype: torch.dtype | None = None,
    clip: float | None = None,
) -> Verification:
    """Compares a plan with the one-device program; every worker of a process group calls it alike.

    Works on copies: model, optimizer and random numbers are afterwards as they were.

    Args:
        model: the user's.
        optimizer: the user's.
        loss: as for `parallel`.
        batches: global batches, the same on every worker.
        plan: what is compared; None: plain data parallelism over the workers there are.
        steps: how many are compared.
        dtype: compares in another data type; `torch.float64` tells rounding from errors.
        clip: as for `parallel`.
    """
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if dist.is_initialized() else 0
    chosen = list(islice(batches, steps))
    job = Job(model=model, optimizer=optimizer, loss=loss or loss_of_model, clip=clip).copy()
    if dtype is not None:
        job, chosen = cast_job(job, dtype), [cast_batch(batch, dtype) for batch in chosen]
    kind = next((parameter.device.type for parameter in model.parameters()), "cpu")
    strategy = _strategy(plan, world_size, chosen, kind=kind)
    if isinstance(plan, Plan):
        job = replace(job, allow=plan.allow)
    with torch.random.fork_rng():
        proof = Proof(job, strategy, role=Role(rank=rank, world_size=world_size, steps=steps))
        for batch in chosen:
            proof.collect(batch)
        return proof.conclude()


def _strategy(plan: Any, world_size: int, batches: list[Any], *, kind: str) -> Strategy | None:
    if isinstance(plan, Plan):
        return plan.strategy
    if isinstance(plan, Strategy):
        return plan
    if plan is not None:
        return read_toml(Plan, Path(plan)).strategy
    if world_size == 1:
        return None
    workers = tuple(
        Worker(rank=rank, host="localhost", device=kind if kind == "cpu" else f"{kind}:{rank}", threads=1)
        for rank in range(world_size)
    )
    return Strategy(
        workers=workers,
        mesh=Mesh(dp_replicate=world_size),
        batch=Batch(size=batch_size(batches[0]), shares=(1,) * world_size),
        exchange=Exchange(transport="nccl" if kind == "cuda" else "gloo"),
    )
