"""One way of splitting one model over two processes: `torchrun parallel_contestant.py WAY PORT FOLDER`.

`parallel.py` starts it. A way is `METHOD:ours:MODEL` or `METHOD:torch:MODEL`: the same plan through Meshwright's
engine, or written by hand with torch's own pieces.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleInterleaved1F1B
from torch.distributed.pipelining.schedules import ScheduleInterleavedZeroBubble
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from contestant import serve
from meshwright.cost import Batch, Exchange, Mesh, Pipeline, Schedule, Strategy, Worker
from meshwright.run import Engine, Job
from meshwright.run._memory import peak_memory

MICRO_BATCHES = 4
MESHES = {
    "data": Mesh(dp_replicate=2), "sharded": Mesh(dp_shard=2), "tensor": Mesh(tp=2), "sequence": Mesh(tp=2),
    "pipeline": Mesh(pp=2), "interleaved": Mesh(pp=2), "zero_bubble": Mesh(pp=2),
    "hybrid": Mesh(pp=2, dp_shard=2, tp=2),
}  # fmt: skip
# Schedule, and stages of each worker.
SCHEDULES: dict[str, tuple[Schedule, int]] = {
    "pipeline": ("1f1b", 1), "interleaved": ("interleaved", 2), "zero_bubble": ("zero_bubble", 1), "hybrid": ("1f1b", 1)
}  # fmt: skip
TORCHS: dict[str, Any] = {"interleaved": ScheduleInterleaved1F1B, "zero_bubble": ScheduleInterleavedZeroBubble}
WIDTH, LAYERS, HEADS, VOCABULARY, LENGTH, EXAMPLES = 448, 8, 8, 12_000, 64, 8
MLP_WIDTH, MLP_LAYERS = 1536, 8
Step = Callable[[Any], Any]


class Attention(nn.Module):
    """Causal attention; the number of heads is what the width of the projections says."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            projection(x).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """About 25M parameters: 19.3M in the blocks, 5.4M in the embedding, which is the head too."""

    blocks = tuple(f"layers.{number}" for number in range(LAYERS))

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class Pair(nn.Module):
    """Two layers with a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(MLP_WIDTH, MLP_WIDTH), nn.Linear(MLP_WIDTH, MLP_WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.relu(self.up(x)))


class MLP(nn.Module):
    """Pairs of layers."""

    blocks = tuple(f"layers.{number}" for number in range(MLP_LAYERS // 2))

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Pair() for _ in range(MLP_LAYERS // 2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def gpt_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """Next tokens."""
    return F.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten())


def mlp_loss(model: nn.Module, x: Tensor) -> Tensor:
    """Mean square of the outputs."""
    return model(x).square().mean()


MODELS: dict[str, tuple[type[nn.Module], Callable[[nn.Module, Tensor], Tensor], Callable[[], Tensor]]] = {
    "gpt": (GPT, gpt_loss, lambda: torch.randint(VOCABULARY, (EXAMPLES, LENGTH))),
    "mlp": (MLP, mlp_loss, lambda: torch.randn(256, MLP_WIDTH)),
}


def ours(method: str, model: nn.Module, loss: Any, batch: Tensor) -> Step:
    """The plan as a strategy, run by the engine."""
    job = Job(model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=1e-4), loss=loss, blocks=model.blocks)
    engine = Engine(job, strategy_of(method, len(batch), model), rank=dist.get_rank())
    return lambda examples: engine.step(examples).item()


def strategy_of(method: str, size: int, model: nn.Module) -> Strategy:
    """The plan that the hand-written way follows too."""
    mesh = MESHES[method]
    pipeline = None
    if method in SCHEDULES:
        schedule, per_worker = SCHEDULES[method]
        length = len(model.blocks) // (mesh.pp * per_worker)
        pipeline = Pipeline(schedule=schedule, cuts=tuple(model.blocks[length::length]))
    return Strategy(
        workers=tuple(Worker(rank=rank, host="here", device="cpu", threads=1) for rank in range(mesh.num_workers)),
        mesh=mesh,
        batch=Batch(size=size, shares=(1,) * mesh.num_shares, accumulation=MICRO_BATCHES if pipeline else 1),
        sharding="parameters" if mesh.dp_shard > 1 else "none",
        sequence="split" if method == "sequence" else "whole",
        pipeline=pipeline,
        exchange=Exchange(transport="gloo"),
    )


def by_hand(method: str, model: nn.Module, loss: Any, _: Tensor) -> Step:
    """The same plan with torch's own pieces."""
    degrees = MESHES[method]
    mesh = init_device_mesh(
        "cpu",
        (degrees.pp, degrees.dp_replicate * degrees.dp_shard, degrees.tp),
        mesh_dim_names=("pp", "data", "tp"),
    )
    if method in SCHEDULES:
        return _pipeline(method, model, mesh)
    if method == "data":
        parallel: nn.Module = nn.parallel.DistributedDataParallel(model)
    elif method == "sharded":
        parallel = _sharded(model, [model.get_submodule(path) for path in model.blocks], mesh["data"])
    else:
        parallel = _tensor(model, mesh["tp"], sequence=method == "sequence")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step(examples: Tensor) -> float:
        optimizer.zero_grad()
        value = loss(parallel, _share(examples, mesh))
        value.backward()
        optimizer.step()
        return value.item()

    return step


def _share(examples: Tensor, mesh: DeviceMesh) -> Tensor:
    """What this worker computes of a global batch."""
    return examples.chunk(mesh["data"].size())[mesh.get_local_rank("data")]


def _sharded(model: nn.Module, blocks: Sequence[nn.Module], mesh: DeviceMesh) -> nn.Module:
    """Parameters in shards, gathered block by block."""
    for block in blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def _tensor(model: nn.Module, mesh: Any, *, sequence: bool) -> nn.Module:
    """Columns, then rows; with norms and residuals split along the sequence where asked for."""
    if isinstance(model, MLP):
        for layer in model.layers:
            parallelize_module(layer, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
        return model
    columns = {f"attention.{name}": ColwiseParallel() for name in ("query", "key", "value")} | {"up": ColwiseParallel()}
    rows = {
        name: RowwiseParallel(output_layouts=Shard(1) if sequence else Replicate())
        for name in ("attention.out", "down")
    }
    gathered = PrepareModuleInput(input_layouts=Shard(1), desired_input_layouts=Replicate())
    norms = {
        "norm1": SequenceParallel(),
        "norm2": SequenceParallel(),
        "attention": gathered,
        "up": ColwiseParallel(input_layouts=Shard(1)),
    }
    for layer in model.layers:
        parallelize_module(layer, mesh, columns | rows | (norms if sequence else {}))
    around: dict[str, Any] = {"head": ColwiseParallel(output_layouts=Replicate())}
    if sequence:
        around = {
            "embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
            "norm": SequenceParallel(),
            "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
        }
    return parallelize_module(model, mesh, around)


def _pipeline(method: str, model: nn.Module, mesh: DeviceMesh) -> Step:
    """Stages in the order of the layers, dealt out to the workers round by round."""
    rank, workers = mesh.get_local_rank("pp"), mesh["pp"].size()
    if mesh["tp"].size() > 1:
        _tensor(model, mesh["tp"], sequence=False)
    count = workers * SCHEDULES[method][1]
    numbers = range(rank, count, workers)
    modules = [_stage_module(model, number, count) for number in numbers]
    if mesh["data"].size() > 1:
        modules = [
            _sharded(module, [part for part in module if len(list(part.children())) > 1], mesh["data"])
            for module in modules
        ]
    stages = [
        PipelineStage(module, number, count, torch.device("cpu"), group=mesh.get_group("pp"))
        for number, module in zip(numbers, modules, strict=True)
    ]
    single = method not in TORCHS
    kind = Schedule1F1B if single else TORCHS[method]
    schedule = kind(stages[0] if single else stages, MICRO_BATCHES, loss_fn=_loss_of_output(model))
    optimizer = torch.optim.AdamW([tensor for module in modules for tensor in module.parameters()], lr=1e-4)

    def step(examples: Tensor) -> None:
        optimizer.zero_grad()
        share = _share(examples, mesh)
        inputs = (share,) if rank == 0 else ()
        outputs: dict[str, Any] = {"target": share, "losses": []} if count - 1 in numbers else {}
        schedule.step(*inputs, **outputs)
        optimizer.step()

    return step


def _stage_module(model: nn.Module, number: int, count: int) -> nn.Sequential:
    """The layers of one stage; the embedding is in the first, norm and head in the last."""
    length = len(model.layers) // count
    parts: list[nn.Module] = [model.layers[layer] for layer in range(number * length, (number + 1) * length)]
    if isinstance(model, GPT):
        parts = [*([model.embedding] if number == 0 else []), *parts]
        parts += [model.norm, model.head] if number == count - 1 else []
    return nn.Sequential(*parts)


def _loss_of_output(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    if isinstance(model, GPT):
        return lambda output, tokens: F.cross_entropy(output.flatten(0, 1), tokens.roll(-1, 1).flatten())
    return lambda output, _: output.square().mean()


def main() -> None:
    """Trains when the referee says so, and leaves its peak memory behind."""
    (method, side, name), port, folder = sys.argv[1].split(":"), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    kind, loss, draw = MODELS[name]
    # nobody else holds the model: what a plan has no use for is freed
    make, batches = ours if side == "ours" else by_hand, [draw() for _ in range(4)]
    step = make(method, kind(), loss, batches[0])
    serve(step, batches, port)
    (folder / f"{method}-{side}-{name}-{dist.get_rank()}.memory").write_text(str(peak_memory()), encoding="ascii")


if __name__ == "__main__":
    main()
