"""The data axes around a split model: this worker's parameters are some other workers' too."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from meshwright.cost import Strategy
from meshwright.exchange import make_reduction, make_transport
from meshwright.parallel._data_parallel import DataParallel
from meshwright.parallel._parallelized import Held, Parallelized
from meshwright.parallel._recompute import Recomputation
from meshwright.parallel._single import SingleWorker
from meshwright.parallel.hybrid._expert_data import ExpertData
from meshwright.parallel.hybrid._grid import Grid
from meshwright.parallel.hybrid._portion import Portion
from meshwright.units import Seconds


class DataAxes(Protocol):
    """What a split model asks of the data axes around it; norms are its own to take, over all axes."""

    @property
    def forwards_together(self) -> bool:
        """Whether forward and backward exchange tensors."""
        ...

    @property
    def communication_seconds(self) -> Seconds:
        """Time of the last step in exchanges (s)."""
        ...

    def micro_batch(self, last: bool) -> AbstractContextManager[object]:
        """Surrounds forward and backward of a micro-batch."""
        ...

    def reduce(self, divisor: float) -> None:
        """Makes gradients sums over the workers that have the parameters, divided."""
        ...

    def stepping(self) -> AbstractContextManager[object]:
        """Surrounds the optimizer's step."""
        ...

    def zero_gradients(self) -> None:
        """Forgets all gradients."""
        ...

    def held(self) -> list[Held]:
        """What this worker holds."""
        ...

    def close(self) -> None:
        """Closes the connections."""
        ...


def over_data_axes(
    model: nn.Module, optimizer: Optimizer | None, strategy: Strategy, *, grid: Grid, portion: Portion
) -> DataAxes:
    """Replicas, or shards, of what this worker computes, over `dp_replicate`, `dp_shard` and `cp`.

    Args:
        model: the user's, holding this worker's part.
        optimizer: the user's.
        strategy: sharding and exchange.
        grid: this worker's place.
        portion: what it computes.
    """
    parameters = portion.parameters
    if strategy.sharding != "parameters" or grid.data is None:
        if strategy.sharding == "gradients" and grid.pipeline is not None:
            # what several stages have is summed between them before the data axes share it out
            strategy = replace(strategy, exchange=replace(strategy.exchange, overlap=False))
        if portion.experts:
            return _with_experts(model, optimizer, strategy, grid=grid, portion=portion)
        return _replicas(model, optimizer, strategy, parameters=parameters, group=grid.data)
    if strategy.shards:
        return _unevenly_sharded(model, optimizer, strategy, grid=grid, portion=portion)
    from meshwright.parallel._fully_sharded import FullySharded
    from meshwright.parallel._shards import ShardLayout

    device = _device(parameters, strategy)
    experts = [tensor for name, tensor in parameters if name in portion.experts]
    return FullySharded(
        model,
        optimizer,
        strategy,
        group=grid.data,
        transport=make_transport(strategy.exchange.transport, grid.data, device),
        batch_norm=None,
        recomputation=Recomputation(model, ()),
        layout=ShardLayout(
            mesh=_shard_mesh(grid, device.type),
            roots=tuple(portion.roots),
            parameters=tuple(parameters),
            elsewhere=dict.fromkeys(experts, _expert_mesh(grid, device.type)) if experts else {},
        ),
    )


def _unevenly_sharded(
    model: nn.Module, optimizer: Optimizer | None, strategy: Strategy, *, grid: Grid, portion: Portion
) -> DataAxes:
    from meshwright.parallel.uneven import UnevenLayout, UnevenShards

    device = _device(portion.parameters, strategy)
    return UnevenShards(
        model,
        optimizer,
        strategy,
        layout=UnevenLayout(roots=tuple(portion.roots), parameters=tuple(portion.parameters), group=grid.data),
        transport=make_transport(strategy.exchange.transport, grid.data, device),
        batch_norm=None,
        recomputation=Recomputation(model, ()),
    )


def _with_experts(
    model: nn.Module, optimizer: Optimizer | None, strategy: Strategy, *, grid: Grid, portion: Portion
) -> DataAxes:
    """Replicas of what all data ranks have, and of the experts that some of them have."""
    common = [(name, tensor) for name, tensor in portion.parameters if name not in portion.experts]
    experts = [(name, tensor) for name, tensor in portion.parameters if name in portion.experts]
    return ExpertData(
        _replicas(model, optimizer, strategy, parameters=common, group=grid.data),
        _replicas(model, optimizer, strategy, parameters=experts, group=grid.expert_data),
    )


def _replicas(
    model: nn.Module,
    optimizer: Optimizer | None,
    strategy: Strategy,
    *,
    parameters: Sequence[tuple[str, Tensor]],
    group: dist.ProcessGroup | None,
) -> Parallelized:
    """Parameters that the workers of a group have alike; None: this worker alone has them."""
    recomputation = Recomputation(model, ())
    if group is None:
        return SingleWorker(model, optimizer, recomputation, parameters=parameters)
    device = _device(parameters, strategy)
    transport = make_transport(strategy.exchange.transport, group, device)
    return DataParallel(
        model,
        optimizer,
        strategy,
        transport=transport,
        batch_norm=None,
        recomputation=recomputation,
        parameters=parameters,
        reduction=make_reduction(strategy, transport, group, device, dtypes={tensor.dtype for _, tensor in parameters}),
    )


def _device(parameters: Sequence[tuple[str, Tensor]], strategy: Strategy) -> torch.device:
    return next((tensor.device for _, tensor in parameters), torch.device(strategy.workers[0].device))


def _expert_mesh(grid: Grid, device_type: str) -> Any:
    """Shards of experts, over all that have the same; None: this worker alone has them."""
    from torch.distributed.device_mesh import DeviceMesh

    if grid.expert_data is None:
        return None
    return DeviceMesh.from_group(grid.expert_data, device_type, mesh_dim_names=(f"expert_data_{grid.name}",))


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
