"""What a strategy asks of model, optimizer and workers, said before anything is changed."""

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from meshwright.cost import Mesh, Strategy
from meshwright.errors import PlanError


def check(model: nn.Module, optimizer: Optimizer | None, strategy: Strategy, group: dist.ProcessGroup | None) -> None:
    """Refuses a strategy of several workers that cannot be followed.

    Raises:
        PlanError: names what stands against it, and what would do.
    """
    _check_workers(strategy, group)
    _check_sharding(strategy, optimizer)
    _check_statistics(model, strategy)
    _check_experts(strategy.mesh)


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
    lossy = strategy.exchange.compression is not None or strategy.precision.reduction != "as_written"
    if strategy.sharding == "parameters" and lossy and strategy.exchange.updates is None:
        raise PlanError(
            "gradients of sharded parameters are not rounded or compressed",
            cause="torch's fully_shard scatters them itself",
            alternatives=["--set sharding=gradients", "--set compression=none", "--set reduction=as_written"],
        )
    if strategy.sharding != "none" and isinstance(optimizer, torch.optim.LBFGS):
        raise PlanError(
            f"{type(optimizer).__name__} cannot be sharded by {strategy.sharding}",
            cause="its update of a parameter depends on all others",
            alternatives=["--set sharding=none", "an optimizer such as AdamW or SGD"],
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
    if mesh.ep > 1 and mesh.num_shares % mesh.ep:
        raise PlanError(
            f"expert = {mesh.ep} does not divide the {mesh.num_shares} data ranks",
            cause="experts are spread over neighbouring data ranks",
            alternatives=["--set expert=1", f"--set data={mesh.ep}"],
            command="meshwright plan SCRIPT",
        )
    if mesh.ep > 1 and mesh.cp > 1:
        raise PlanError(
            f"expert = {mesh.ep} with context = {mesh.cp}",
            cause="tokens of all positions are sorted by expert together, and each worker of the context axis would "
            "send all of them",
            alternatives=["--set context=1", "--set expert=1: experts are computed beside the split sequence"],
            command="meshwright plan SCRIPT",
        )
