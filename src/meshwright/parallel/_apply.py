"""Makes a model and its optimizer follow a strategy."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from meshwright.cost import Strategy
from meshwright.errors import PlanError
from meshwright.exchange import make_transport
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
    graph_blocks: Sequence[str] = (),
    group: dist.ProcessGroup | None = None,
) -> Parallelized:
    """Makes a model and its optimizer follow a strategy; both stay the user's objects.

    All workers of the strategy call it at the same time, and then go on from worker 0's parameters and buffers.

    Args:
        model: on this worker's device.
        optimizer: of the model's parameters; None where nothing is updated.
        strategy: what to do; its data ranks are the group's ranks.
        graph_blocks: names of the model's repeated blocks, which are sharded one by one.
        group: the strategy's workers; None: all there are.

    Raises:
        PlanError: the strategy does not suit the model, the optimizer or the workers.
        WorkerError: the workers cannot reach each other.
    """
    if strategy.num_workers == 1:
        return SingleWorker(model, optimizer, Recomputation(model, strategy.recompute))
    _check(strategy, optimizer, group)
    device = next((tensor.device for tensor in model.parameters()), torch.device(strategy.workers[0].device))
    transport = make_transport(strategy.exchange.transport, group, device)
    agree(model, optimizer, transport)
    batch_norm = None
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        batch_norm = GlobalBatchNorm(make_transport(strategy.exchange.transport, group, device))
    recomputation = Recomputation(model, strategy.recompute, around=batch_norm)
    if strategy.sharding == "parameters":
        # torch's sharded tensors take seconds to import, which no other strategy needs
        from meshwright.parallel._fully_sharded import FullySharded

        return FullySharded(
            model,
            optimizer,
            strategy,
            blocks=graph_blocks,
            group=group,
            transport=transport,
            batch_norm=batch_norm,
            recomputation=recomputation,
        )
    return DataParallel(
        model, optimizer, strategy, transport=transport, batch_norm=batch_norm, recomputation=recomputation
    )


def _check(strategy: Strategy, optimizer: Optimizer | None, group: dist.ProcessGroup | None) -> None:
    if not dist.is_initialized():
        raise PlanError(
            f"the plan has {strategy.num_workers} workers, but this process runs alone",
            command="meshwright run SCRIPT",
        )
    size = dist.get_world_size(group)
    if size != strategy.num_workers or size != strategy.mesh.num_shares:
        raise PlanError(
            f"the plan has {strategy.num_workers} workers and {strategy.mesh.num_shares} data ranks, "
            f"but {size} workers were started",
            alternatives=[f"start {strategy.num_workers} workers"],
            command="meshwright run SCRIPT",
        )
    if strategy.sharding != "none" and isinstance(optimizer, torch.optim.LBFGS):
        raise PlanError(
            f"{type(optimizer).__name__} cannot be sharded by {strategy.sharding}",
            cause="its update of a parameter depends on all others",
            alternatives=["--set sharding=none", "an optimizer such as AdamW or SGD"],
        )
