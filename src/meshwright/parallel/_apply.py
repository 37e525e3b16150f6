"""Makes a model and its optimizer follow a strategy."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from meshwright.cost import Strategy
from meshwright.exchange import Transport, make_reduction, make_transport
from meshwright.parallel._agreement import agree
from meshwright.parallel._batch_norm import GlobalBatchNorm
from meshwright.parallel._checks import check, check_offload
from meshwright.parallel._data_parallel import DataParallel
from meshwright.parallel._named import all_parameters
from meshwright.parallel._parallelized import Parallelized
from meshwright.parallel._recompute import Recomputation
from meshwright.parallel._single import SingleWorker


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """What is made parallel, and how; fields as the arguments of `apply`."""

    model: nn.Module
    optimizer: Optimizer | None
    strategy: Strategy
    loss: Callable[[nn.Module, Any], Any] | None
    blocks: Sequence[str]
    group: dist.ProcessGroup | None
    context: Callable[[], AbstractContextManager[Any]]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        first = next(self.model.parameters(), None)
        return torch.device(self.strategy.workers[0].device) if first is None else first.device

    def transport(self) -> Transport:
        """A connection between all workers."""
        return make_transport(self.strategy.exchange.transport, self.group, self.device)


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
        check_offload(strategy, optimizer)
        return SingleWorker(model, optimizer, Recomputation(model, strategy.recompute))
    check(model, optimizer, strategy, group)
    job = _Job(
        model=model,
        optimizer=optimizer,
        strategy=strategy,
        loss=loss,
        blocks=graph_blocks,
        group=group,
        context=context,
    )
    transport = job.transport()
    agree(model, optimizer, transport)
    return _following(job, transport)


def _following(job: _Job, transport: Transport) -> Parallelized:
    """The way that a strategy takes: apart, split, in shards or in replicas."""
    if job.strategy.exchange.updates is not None:
        transport.close()
        return _apart(job)
    if job.strategy.mesh.splits_the_model:
        return _split(job, transport)
    return _sharded(job, transport) if job.strategy.sharding == "parameters" else _replicated(job, transport)


def _apart(job: _Job) -> Parallelized:
    """What the workers of an island do together, and how islands meet."""
    from meshwright.parallel.stale import make_island, set_apart

    strategy = job.strategy
    assert strategy.exchange.updates is not None
    island = make_island(strategy, strategy.exchange.updates, job.group)
    own = replace(job, strategy=island.strategy, group=island.group)
    inner = apply(
        own.model,
        own.optimizer,
        own.strategy,
        loss=own.loss,
        graph_blocks=own.blocks,
        group=own.group,
        context=own.context,
    )
    return set_apart(inner, island, strategy, group=job.group)


def _split(job: _Job, transport: Transport) -> Parallelized:
    # capturing a program loads much of torch that no other strategy needs
    from meshwright.parallel.hybrid import Hybrid, make_grid

    assert job.loss is not None, "a split model is split with its loss"
    return Hybrid(
        job.model,
        job.optimizer,
        job.loss,
        job.strategy,
        grid=make_grid(job.strategy.mesh, job.group),
        transport=transport,
        blocks=job.blocks,
        context=job.context,
    )


def _sharded(job: _Job, transport: Transport) -> Parallelized:
    if job.strategy.shards:
        return _unevenly_sharded(job, transport)
    # torch's sharded tensors take seconds to import, which no other strategy needs
    from meshwright.parallel._fully_sharded import FullySharded
    from meshwright.parallel._shards import whole_model

    statistics = _statistics(job)
    return FullySharded(
        job.model,
        job.optimizer,
        job.strategy,
        layout=whole_model(job.model, job.optimizer, job.strategy.mesh, blocks=job.blocks, group=job.group),
        group=job.group,
        transport=transport,
        batch_norm=statistics,
        recomputation=Recomputation(job.model, job.strategy.recompute, around=statistics),
    )


def _unevenly_sharded(job: _Job, transport: Transport) -> Parallelized:
    from meshwright.parallel.uneven import UnevenLayout, UnevenShards

    statistics = _statistics(job)
    return UnevenShards(
        job.model,
        job.optimizer,
        job.strategy,
        layout=UnevenLayout(
            roots=((job.model, tuple(job.blocks)),),
            parameters=tuple(all_parameters(job.model, job.optimizer)),
            group=job.group,
        ),
        transport=transport,
        batch_norm=statistics,
        recomputation=Recomputation(job.model, job.strategy.recompute, around=statistics),
    )


def _replicated(job: _Job, transport: Transport) -> Parallelized:
    statistics = _statistics(job)
    dtypes = {tensor.dtype for tensor in job.model.parameters() if tensor.requires_grad}
    return DataParallel(
        job.model,
        job.optimizer,
        job.strategy,
        transport=transport,
        batch_norm=statistics,
        recomputation=Recomputation(job.model, job.strategy.recompute, around=statistics),
        reduction=make_reduction(job.strategy, transport, job.group, job.device, dtypes=dtypes),
    )


def _statistics(job: _Job) -> GlobalBatchNorm | None:
    """Batch normalization over the global batch; None where there is none."""
    has_any = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in job.model.modules())
    return GlobalBatchNorm(job.transport()) if has_any else None
