"""What a strategy asks of model, optimizer and workers, said before anything is changed."""

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from meshwright.cost import Mesh, Strategy
from meshwright.errors import PlanError
from meshwright.parallel._elementwise import is_elementwise


def check(model: nn.Module, optimizer: Optimizer | None, strategy: Strategy, group: dist.ProcessGroup | None) -> None:
    """Refuses a strategy of several workers that cannot be followed.

    Raises:
        PlanError: names what stands against it, and what would do.
    """
    _check_workers(strategy, group)
    _check_sharding(strategy, optimizer)
    _check_shards(strategy, optimizer)
    _check_statistics(model, strategy)
    _check_experts(strategy.mesh)
    check_offload(strategy, optimizer)


def check_offload(strategy: Strategy, optimizer: Optimizer | None) -> None:
    """Refuses what cannot be in the host's memory: state that nobody here steps, activations that no block saves.

    Raises:
        PlanError: says which.
    """
    state = strategy.offload == "state"
    pieces = "the state is brought to the device piece by piece by whoever steps the optimizer, whole tensors at a time"
    saved = "what blocks save is carried by the blocks' own forwards"
    causes = (
        ("an optimizer of the script's own loop", state and optimizer is None, pieces),
        ("sharded parameters", state and strategy.sharding == "parameters", pieces),
        ("a split model", _saves_away(strategy) and strategy.mesh.splits_the_model, f"{saved}, which it does not run"),
        ("compiled blocks", _saves_away(strategy) and strategy.kernels.compiled, f"{saved}, not by compiled ones"),
        ("recompute", _saves_away(strategy) and bool(strategy.recompute), "what is computed again is not saved"),
    )
    for name, is_there, cause in causes:
        if is_there:
            raise PlanError(
                f"offload = {strategy.offload} with {name}",
                cause=cause,
                alternatives=["--set offload=none", "--set sharding=optimizer" if state else "--set recompute=none"],
                command="meshwright plan SCRIPT",
            )


def _saves_away(strategy: Strategy) -> bool:
    return strategy.offload == "activations"


def _check_workers(strategy: Strategy, group: dist.ProcessGroup | None) -> None:
    if not dist.is_initialized():
        raise PlanError(
            f"the plan has {strategy.num_workers} workers, but this process runs alone",
            command="meshwright run SCRIPT",
        )
    size = dist.get_world_size(group)
    if size != strategy.num_workers or size != strategy.mesh.num_workers:
        raise PlanError(
            f"the plan has {strategy.num_workers} workers in a grid of {strategy.mesh.num_workers}, "
            f"but {size} workers were started",
            alternatives=[f"start {strategy.num_workers} workers"],
            command="meshwright run SCRIPT",
        )


def _check_sharding(strategy: Strategy, optimizer: Optimizer | None) -> None:
    if strategy.sharding == "parameters" and strategy.exchange.updates is None:
        _check_encoded_shards(strategy)
    if strategy.sharding != "none" and isinstance(optimizer, torch.optim.LBFGS):
        raise PlanError(
            f"{type(optimizer).__name__} cannot be sharded by {strategy.sharding}",
            cause="its update of a parameter depends on all others",
            alternatives=["--set sharding=none", "an optimizer such as AdamW or SGD"],
        )


def _check_shards(strategy: Strategy, optimizer: Optimizer | None) -> None:
    """Shards of unequal size: one of each data rank, in one copy, of whatever is in shards."""
    shards, mesh = strategy.shards, strategy.mesh
    if not shards:
        return
    whole = strategy.sharding == "parameters"
    reasons = {
        f"{mesh.num_shares} data ranks": (
            len(shards) != mesh.num_shares or min(shards) < 0 or not any(shards), "every data rank has a share, from 0",
        ),
        "sharding = none": (strategy.sharding == "none", "nothing is kept in shards"),
        f"{mesh.dp_replicate} copies": (
            mesh.dp_replicate > 1, "copies of a shard are summed, and would have to be equally large",
        ),
        f"expert = {mesh.ep}": (mesh.ep > 1, "experts are shared out among other workers than the rest"),
        "islands": (strategy.exchange.updates is not None, "they meet shard by shard"),
        "compression": (
            whole and strategy.exchange.compression is not None, "blocks of bits are counted from equal shards",
        ),
        type(optimizer).__name__: (
            whole and optimizer is not None and not is_elementwise(optimizer),
            "its update of a value depends on the others of its parameter, of which a worker has some rows",
        ),
    }  # fmt: skip
    for name, (is_there, cause) in reasons.items():
        if is_there:
            raise PlanError(
                f"shards of {':'.join(map(str, shards))} with {name}",
                cause=cause,
                alternatives=[
                    "--set shards=equal",
                    "--set sharding=optimizer" if whole else "--set sharding=parameters",
                ],
                command="meshwright plan SCRIPT",
            )


def _check_encoded_shards(strategy: Strategy) -> None:
    """Shards of one copy of the whole model travel in blocks of 8 or 4 bits, and in no other lossy way."""
    choice, mesh = strategy.exchange.compression, strategy.mesh
    if strategy.precision.reduction != "as_written":
        raise PlanError(
            "gradients of sharded parameters are not rounded to 16 bits",
            cause="torch's fully_shard scatters them itself",
            alternatives=["--set compression=int8", "--set sharding=gradients", "--set reduction=as_written"],
        )
    if choice is None:
        return
    reasons = {
        choice.summary: (
            choice.method not in ("int8", "int4"),
            "a shard of every parameter is scattered as soon as there is one: factors, momenta and chosen elements are "
            "those of whole gradients",
        ),
        f"{mesh.dp_replicate} copies": (mesh.dp_replicate > 1, "sums of shards over the copies would be sent whole"),
        "a split model": (mesh.splits_the_model, "what is left out of its gradients would not be in checkpoints"),
        "shared memory": (strategy.exchange.transport == "shared_memory", "memory is faster than any encoding"),
    }
    for name, (is_there, cause) in reasons.items():
        if is_there:
            raise PlanError(
                f"sharded parameters, compression = {choice.method} and {name}",
                cause=cause,
                alternatives=["--set compression=int8", "--set sharding=gradients", "--set compression=none"],
                command="meshwright plan SCRIPT",
            )


def _check_statistics(model: nn.Module, strategy: Strategy) -> None:
    """Batch normalization takes its statistics from one forward: micro-batches would have other ones."""
    normalizing = [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
    ]
    if strategy.batch.accumulation > 1 and normalizing:
        raise PlanError(
            f"{len(normalizing)} batch normalizations, {normalizing[0]} first, and {strategy.batch.accumulation} "
            "micro-batches",
            cause="statistics are taken over the whole batch, which micro-batches would change",
            alternatives=["--set accumulation=1"],
        )


def _check_experts(mesh: Mesh) -> None:
    if (mesh.num_shares * mesh.cp) % mesh.ep:
        ranks = f"{mesh.num_shares} data ranks" + (f" of {mesh.cp} parts of a sequence" if mesh.cp > 1 else "")
        raise PlanError(
            f"expert = {mesh.ep} does not divide the {ranks}",
            cause="experts are spread over neighbouring data ranks, and over the context axis inside of them",
            alternatives=["--set expert=1", f"--set data={mesh.ep}"],
            command="meshwright plan SCRIPT",
        )
