"""Makes a model and its optimizer follow a strategy."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from meshwright.cost import Strategy
from meshwright.errors import PlanError
from meshwright.exchange import Transport, make_reduction, make_transport
from meshwright.parallel._agreement import agree
from meshwright.parallel._batch_norm import GlobalBatchNorm
from meshwright.parallel._data_parallel import DataParallel
from meshwright.parallel._parallelized import Parallelized
from meshwright.parallel._recompute import Recomputation
from meshwright.parallel._single import SingleWorker


def apply(
    model: nn.Module,
    optimizer: Optimizer | None,
    strategy: Strategy,
    *,
    loss: Callable[[nn.Module, Any], Any] | None = None,
    graph_blocks: Sequence[str] = (),
    group: dist.ProcessGroup | None = None,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Parallelized:
    """Makes a model and its optimizer follow a strategy; both stay the user's objects.

    All workers of the strategy call it at the same time, and then go on from worker 0's parameters and buffers.

    Args:
        model: on this worker's device.
        optimizer: of the model's parameters; None where nothing is updated.
        strategy: what to do; its workers are the group's ranks.
        loss: the user's, which becomes part of what is split; needed where the strategy splits the model.
        graph_blocks: names of the model's repeated blocks, which are sharded one by one.
        group: the strategy's workers; None: all there are.
        context: makes what surrounds the forward of a split model, such as autocast.

    Returns:
        A `SplitModel` where the strategy splits the model.

    Raises:
        PlanError: the strategy does not suit the model, the optimizer or the workers.
        WorkerError: the workers cannot reach each other.
    """
    if strategy.num_workers == 1:
        return SingleWorker(model, optimizer, Recomputation(model, strategy.recompute))
    _check(strategy, optimizer, group)
    _check_statistics(model, strategy)
    _check_axes(strategy)
    device = next((tensor.device for tensor in model.parameters()), torch.device(strategy.workers[0].device))
    transport = make_transport(strategy.exchange.transport, group, device)
    agree(model, optimizer, transport)
    if strategy.exchange.updates is not None:
        transport.close()
        return _apart(model, optimizer, strategy, loss=loss, graph_blocks=graph_blocks, group=group, context=context)
    if strategy.mesh.splits_the_model:
        return _split(
            model,
            optimizer,
            strategy,
            loss=loss,
            graph_blocks=graph_blocks,
            group=group,
            transport=transport,
            context=context,
        )
    batch_norm = None
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        batch_norm = GlobalBatchNorm(make_transport(strategy.exchange.transport, group, device))
    recomputation = Recomputation(model, strategy.recompute, around=batch_norm)
    if strategy.sharding == "parameters":
        # torch's sharded tensors take seconds to import, which no other strategy needs
        from meshwright.parallel._fully_sharded import FullySharded
        from meshwright.parallel._shards import whole_model

        return FullySharded(
            model,
            optimizer,
            strategy,
            layout=whole_model(model, optimizer, strategy.mesh, blocks=graph_blocks, group=group),
            group=group,
            transport=transport,
            batch_norm=batch_norm,
            recomputation=recomputation,
        )
    dtypes = {tensor.dtype for tensor in model.parameters() if tensor.requires_grad}
    return DataParallel(
        model,
        optimizer,
        strategy,
        transport=transport,
        batch_norm=batch_norm,
        recomputation=recomputation,
        reduction=make_reduction(strategy, transport, group, device, dtypes=dtypes),
    )


def _split(
    model: nn.Module,
    optimizer: Optimizer | None,
    strategy: Strategy,
    *,
    loss: Callable[[nn.Module, Any], Any] | None,
    graph_blocks: Sequence[str],
    group: dist.ProcessGroup | None,
    transport: Transport,
    context: Callable[[], AbstractContextManager[Any]],
) -> Parallelized:
    # capturing a program loads much of torch that no other strategy needs
    from meshwright.parallel.hybrid import Hybrid, make_grid

    assert loss is not None, "a split model is split with its loss"
    grid = make_grid(strategy.mesh, group)
    return Hybrid(
        model, optimizer, loss, strategy, grid=grid, transport=transport, blocks=graph_blocks, context=context
    )


def _apart(
    model: nn.Module,
    optimizer: Optimizer | None,
    strategy: Strategy,
    *,
    loss: Callable[[nn.Module, Any], Any] | None,
    graph_blocks: Sequence[str],
    group: dist.ProcessGroup | None,
    context: Callable[[], AbstractContextManager[Any]],
) -> Parallelized:
    """What the workers of an island do together, and how islands meet."""
    from meshwright.parallel.stale import make_island, set_apart

    exchange = strategy.exchange
    assert exchange.updates is not None
    island = make_island(strategy, exchange.updates, group)
    inner = apply(
        model,
        optimizer,
        island.strategy,
        loss=loss,
        graph_blocks=graph_blocks,
        group=island.group,
        context=context,
    )
    return set_apart(inner, island, strategy, group=group)


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


def _check_axes(strategy: Strategy) -> None:
    mesh = strategy.mesh
    if mesh.ep == 1:
        return
    if mesh.num_shares % mesh.ep:
        raise PlanError(
            f"expert = {mesh.ep} does not divide the {mesh.num_shares} data ranks",
            cause="experts are spread over neighbouring data ranks",
            alternatives=["--set expert=1", f"--set data={mesh.ep}"],
            command="meshwright plan SCRIPT",
        )
    hindrance = f"sharding = {strategy.sharding}" if strategy.sharding != "none" else f"context = {mesh.cp}"
    if strategy.sharding != "none" or mesh.cp > 1:
        raise PlanError(
            f"expert = {mesh.ep} with {hindrance}",
            cause="an expert's parameters and tokens are on some of the data ranks only",
            alternatives=["--set sharding=none --set context=1", "--set expert=1"],
            command="meshwright plan SCRIPT",
        )


def _check(strategy: Strategy, optimizer: Optimizer | None, group: dist.ProcessGroup | None) -> None:
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
