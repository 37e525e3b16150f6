"""A strategy from choices alone, for workers that stand already and a step that nobody has seen."""

from torch import nn

from meshwright.cost import Batch, Exchange, Mesh, Strategy, Worker
from meshwright.errors import PlanError
from meshwright.plan import Pins


def pinned_strategy(pins: Pins, *, world_size: int, device: str, threads: int) -> Strategy:
    """What the choices say; data ranks share out what they leave, equally.

    Args:
        pins: choices; those that a hand-written loop cannot follow have been refused.
        world_size: how many workers there are.
        device: torch's kind of it.
        threads: of each worker.

    Raises:
        PlanError: the degrees do not make so many workers.
    """
    split = (pins.tensor or 1) * (pins.context or 1)
    data, rest = divmod(world_size, split)
    shard = pins.shard or (data // (pins.data or 1) if pins.sharding not in (None, "none") else 1)
    replicate = pins.data or data // shard
    if rest or replicate * shard != data or (pins.workers or world_size) != world_size:
        raise PlanError(
            f"{world_size} workers were started, and tensor × context × data × shard is "
            f"{pins.tensor or 1} × {pins.context or 1} × {replicate} × {shard}",
            alternatives=[f"start {split * replicate * shard} workers", "leave data and shard out"],
            command=f"torchrun --nproc-per-node {split * replicate * shard} SCRIPT",
        )
    return Strategy(
        workers=tuple(Worker(rank=rank, host="here", device=device, threads=threads) for rank in range(world_size)),
        mesh=Mesh(
            dp_replicate=replicate, dp_shard=shard, cp=pins.context or 1, ep=pins.expert or 1, tp=pins.tensor or 1
        ),
        batch=Batch(size=0, shares=(1,) * data),
        sharding=pins.sharding or ("none" if shard == 1 else "parameters"),
        sequence=pins.sequence or "whole",
        exchange=Exchange(transport=pins.transport or ("nccl" if device == "cuda" else "gloo")),
    )


def repeated_blocks(model: nn.Module) -> tuple[str, ...]:
    """Paths of the members of outermost lists of equal modules, which are sharded one by one."""
    found: list[str] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{block}.") for block in found)
        kinds = {type(child) for child in module.children()}
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 1 and len(kinds) == 1 and not inside:
            found += [f"{path}.{name}" if path else name for name, _ in module.named_children()]
    return tuple(found)
