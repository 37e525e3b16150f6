"""Ways for hosts to agree on gradients: rivals, and Meshwright's, each by a name.

ddp, ddp_fp16, ddp_powersgd          torch's DistributedDataParallel, plain and with its hooks
exact, bfloat16                      Meshwright in float32, and with gradients in 16 bits summed in 32: on direct
                                     connections with packed exponents; …_direct: unpacked; …_gloo: over gloo;
                                     …_shared: through memory
int8, int4, sign, top_k, …           Meshwright with compressed gradients
torchft_diloco, hivemind             of other packages (`exchange_rivals`)
local, local_int8                    Meshwright, islands that agree every 16 steps, all at once
local_streamed                       the same in four fragments, each while the next steps are computed
asynchronous                         Meshwright, islands that meet a server; nobody waits for the slowest
…_as_written                         any of Meshwright's with torch's own kernels, as the rivals have; without it they
                                     run with those that the planner takes on a CPU: oneDNN's matrix products (the
                                     same sums in another order) and freed memory kept
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from exchange_orders import INTERVAL
from meshwright.cost import Batch, Compression, Exchange, Kernels, Mesh, Precision, Strategy, Updates, Worker
from meshwright.run._engine import Engine
from meshwright.run._job import Job

AS_WRITTEN = "_as_written"
KERNELS = Kernels(matrix_library="onednn" if torch.backends.mkldnn.is_available() else "default", allocator="retained")
PACKAGES = {"torchft_diloco": "torchft", "hivemind": "hivemind"}
RIVALS = ("ddp", "ddp_fp16", "ddp_powersgd", *PACKAGES)
# Of what islands agree on; for meetings as rare as these.
OUTER_RATE, OUTER_MOMENTUM = 0.7, 0.5
LOCAL = Updates(kind="local", interval=INTERVAL, rate=OUTER_RATE, momentum=OUTER_MOMENTUM)
Step = Callable[[Tensor], float]
Loss = Callable[[nn.Module, Tensor], Tensor]

CHOICES: dict[str, dict[str, Any]] = {
    "exact": {"transport": "direct_packed"},
    "exact_direct": {"transport": "direct"},
    "exact_gloo": {},
    "exact_shared": {"transport": "shared_memory"},
    "bfloat16": {"transport": "direct_packed", "precision": Precision(reduction="bfloat16")},
    "bfloat16_direct": {"transport": "direct", "precision": Precision(reduction="bfloat16")},
    "bfloat16_gloo": {"precision": Precision(reduction="bfloat16")},
    "int8": {"compression": Compression(method="int8")},
    "int4": {"compression": Compression(method="int4")},
    "sign": {"compression": Compression(method="sign")},
    "powersgd": {"compression": Compression(method="powersgd", rank=4)},
    "powersgd_16": {"compression": Compression(method="powersgd", rank=16)},
    "top_k": {"compression": Compression(method="top_k", share=0.01)},
    "random_k": {"compression": Compression(method="random_k", share=0.05)},
    "local": {"updates": LOCAL},
    "local_int8": {"updates": LOCAL, "compression": Compression(method="int8")},
    "local_streamed": {"updates": replace(LOCAL, fragments=4, delay=3), "compression": Compression(method="int8")},
    "asynchronous": {"updates": Updates(kind="asynchronous", interval=4)},
}  # fmt: skip
CHOICES |= {f"{way}{AS_WRITTEN}": choice for way, choice in CHOICES.items()}


def trains_apart(way: str) -> bool:
    """Whether hosts agree every INTERVAL steps only, so that steps differ."""
    return way.startswith("local") or way in PACKAGES


def strategy_of(way: str, *, shares: tuple[int, ...], batch: int, bucket_size: int) -> Strategy:
    """Meshwright's strategy of a name, with one worker on each host."""
    choice = dict(CHOICES[way])
    precision = choice.pop("precision", Precision())
    size = len(shares)
    if "updates" in choice:
        choice["updates"] = replace(choice["updates"], islands=size)
    return Strategy(
        workers=tuple(Worker(rank=rank, host=f"host-{rank}", device="cpu", threads=1) for rank in range(size)),
        mesh=Mesh(dp_replicate=size),
        batch=Batch(size=batch, shares=shares),
        kernels=Kernels() if way.endswith(AS_WRITTEN) else KERNELS,
        precision=precision,
        exchange=Exchange(bucket_size=bucket_size, **choice),
    )


def meshwright_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, strategy: Strategy
) -> tuple[Step, Callable[[], object]]:
    """A step on the global batch through Meshwright's engine, and what ends it."""
    job = Job(model=model, optimizer=optimizer, loss=loss, allow=("precision", "compression", "staleness"))
    engine = Engine(job, strategy, rank=dist.get_rank())
    return lambda batch: float(engine.step(batch, size=len(batch))), engine.close


def rival_step(
    way: str, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss
) -> tuple[Step, Callable[[], object]]:
    """A step on an equal share of the global batch through DistributedDataParallel."""
    wrapped = nn.parallel.DistributedDataParallel(model, bucket_cap_mb=1000 if way == "ddp_powersgd" else 25)
    if way == "ddp_fp16":
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

        wrapped.register_comm_hook(None, fp16_compress_hook)
    if way == "ddp_powersgd":
        from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

        state = PowerSGDState(None, matrix_approximation_rank=4, start_powerSGD_iter=2)
        wrapped.register_comm_hook(state, powerSGD_hook)
    rank, size = dist.get_rank(), dist.get_world_size()

    def step(batch: Tensor) -> float:
        optimizer.zero_grad()
        value = loss(wrapped, batch.tensor_split(size)[rank])
        value.backward()
        optimizer.step()
        return float(value.detach())

    return step, lambda: None
