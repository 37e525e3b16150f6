"""The data axes around a split model: this worker's parameters are some other workers' too."""

from dataclasses import replace
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from meshwright.cost import Strategy
from meshwright.exchange import make_reduction, make_transport
from meshwright.parallel._data_parallel import DataParallel
from meshwright.parallel._parallelized import Parallelized
from meshwright.parallel._recompute import Recomputation
from meshwright.parallel._single import SingleWorker
from meshwright.parallel.hybrid._expert_data import ExpertData
from meshwright.parallel.hybrid._grid import Grid
from meshwright.parallel.hybrid._portion import Portion


def over_data_axes(
    model: nn.Module, optimizer: Optimizer | None, strategy: Strategy, *, grid: Grid, portion: Portion
) -> Parallelized:
    """Replicas, or shards, of what this worker computes, over `dp_replicate`, `dp_shard` and `cp`.

    Args:
        model: the user's, holding this worker's part.
        optimizer: the user's.
        strategy: sharding and exchange.
        grid: this worker's place.
        portion: what it computes.
    """
    if portion.experts:
        return _with_experts(model, optimizer, strategy, grid=grid, portion=portion)
    parameters = portion.parameters
    recomputation = Recomputation(model, ())
    if grid.data is None:
        return SingleWorker(model, optimizer, recomputation, parameters=parameters)
    device = next((tensor.device for _, tensor in parameters), torch.device(strategy.workers[0].device))
    transport = make_transport(strategy.exchange.transport, grid.data, device)
    if strategy.sharding == "parameters":
        from meshwright.parallel._fully_sharded import FullySharded
        from meshwright.parallel._shards import ShardLayout

        return FullySharded(
            model,
            optimizer,
            strategy,
            group=grid.data,
            transport=transport,
            batch_norm=None,
            recomputation=recomputation,
            layout=ShardLayout(
                mesh=_shard_mesh(grid, device.type), roots=tuple(portion.roots), parameters=tuple(parameters)
            ),
        )
    if strategy.sharding == "gradients" and grid.pipeline is not None:
        # what several stages have is summed between them before the data axes share it out
        strategy = replace(strategy, exchange=replace(strategy.exchange, overlap=False))
    return DataParallel(
        model,
        optimizer,
        strategy,
        transport=transport,
        batch_norm=None,
        recomputation=recomputation,
        parameters=parameters,
        reduction=make_reduction(
            strategy, transport, grid.data, device, dtypes={tensor.dtype for _, tensor in parameters}
        ),
    )


def _with_experts(
    model: nn.Module, optimizer: Optimizer | None, strategy: Strategy, *, grid: Grid, portion: Portion
) -> Parallelized:
    """Replicas of what all data ranks have, and of the experts that some of them have."""
    parts: dict[bool, list[tuple[str, Tensor]]] = {True: [], False: []}
    for name, tensor in portion.parameters:
        parts[name in portion.experts].append((name, tensor))
    made: list[Parallelized] = []
    for parameters, group, stepped in ((parts[False], grid.data, optimizer), (parts[True], grid.expert_data, None)):
        recomputation = Recomputation(model, ())
        if group is None:
            made.append(SingleWorker(model, stepped, recomputation, parameters=parameters))
            continue
        device = next((tensor.device for _, tensor in parameters), torch.device(strategy.workers[0].device))
        transport = make_transport(strategy.exchange.transport, group, device)
        made.append(
            DataParallel(
                model,
                stepped,
                strategy,
                transport=transport,
                batch_norm=None,
                recomputation=recomputation,
                parameters=parameters,
                reduction=make_reduction(
                    strategy, transport, group, device, dtypes={tensor.dtype for _, tensor in parameters}
                ),
            )
        )
    return ExpertData(*made)


def _shard_mesh(grid: Grid, device_type: str) -> Any:
    """Shards over `dp_shard` and `cp`, copies of them over `dp_replicate`.

    Its dims are named after the grid: torch remembers results by meshes that it holds for equal, and would give back
    tensors on the closed groups of an earlier grid.
    """
    from torch.distributed.device_mesh import DeviceMesh

    if grid.replicas is None:
        return DeviceMesh.from_group(
            cast(dist.ProcessGroup, grid.data), device_type, mesh_dim_names=(f"dp_shard_{grid.name}",)
        )
    ranks = torch.tensor(dist.get_process_group_ranks(grid.data)).view(grid.mesh.dp_replicate, -1)
    return DeviceMesh.from_group(
        [grid.replicas, cast(dist.ProcessGroup, grid.shards)],
        device_type,
        mesh=ranks,
        mesh_dim_names=(f"dp_replicate_{grid.name}", f"dp_shard_{grid.name}"),
    )
