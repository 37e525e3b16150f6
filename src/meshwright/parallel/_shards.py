"""Parameters replaced by their shards, in the modules that run them, the user's model and the optimizer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_common import FSDPMeshInfo, ShardPlacementResult
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.optim import Adam, AdamW, Optimizer

from meshwright.cost import Mesh
from meshwright.errors import PlanError
from meshwright.parallel._named import all_parameters, stands_alone
from meshwright.parallel._own_outputs import with_own_outputs
from meshwright.parallel._pieces import Span


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ShardLayout:
    """What is sharded where.

    Args:
        mesh: what shards, and copies of them, are laid out on.
        roots: modules that run the parameters, each with the names of its blocks, which are gathered one by one.
        parameters: names and tensors of all that this worker has.
        elsewhere: parameters whose shards lie on another mesh than the others', such as experts; None: this worker
            alone has them.
    """

    mesh: DeviceMesh
    roots: tuple[tuple[nn.Module, tuple[str, ...]], ...]
    parameters: tuple[tuple[str, Tensor], ...]
    elsewhere: Mapping[Tensor, DeviceMesh | None] = field(default_factory=dict)


def whole_model(
    model: nn.Module,
    optimizer: Optimizer | None,
    degrees: Mesh,
    *,
    blocks: Sequence[str],
    group: dist.ProcessGroup | None,
) -> ShardLayout:
    """The user's model over a group.

    Args:
        blocks: names of the modules that are gathered one by one.
        group: the workers; None: all there are.
    """
    parameters = tuple(all_parameters(model, optimizer))
    mesh = _shard_mesh(degrees, parameters[0][1].device.type, group)
    return ShardLayout(mesh=mesh, roots=((model, tuple(blocks)),), parameters=parameters)


def _shard_mesh(degrees: Mesh, device_type: str, group: dist.ProcessGroup | None) -> DeviceMesh:
    if degrees.dp_replicate == 1:
        group = dist.group.WORLD if group is None else group
        return DeviceMesh.from_group(cast(dist.ProcessGroup, group), device_type, mesh_dim_names=("dp_shard",))
    if group is not None:
        raise PlanError(
            f"{degrees.dp_replicate} copies of {degrees.dp_shard} shards need all workers that were started",
            alternatives=["--set sharding=optimizer", f"start {degrees.num_shares} workers"],
        )
    return init_device_mesh(
        device_type, (degrees.dp_replicate, degrees.dp_shard), mesh_dim_names=("dp_replicate", "dp_shard")
    )


def sharded(layout: ShardLayout) -> dict[Tensor, Tensor]:
    """Shards every root; gives the sharded parameter that took the place of each."""
    whole = {tensor for name, tensor in layout.parameters if tensor.dim() == 0 or name.startswith("optimizer.")}
    whole |= {tensor for tensor, mesh in layout.elsewhere.items() if mesh is None}
    before = [dict(parameters_of(root)) for root, _ in layout.roots]
    for root, blocks in layout.roots:
        _shard(root, blocks, layout, whole)
    return {
        old[path]: new
        for (root, _), old in zip(layout.roots, before, strict=True)
        for path, new in parameters_of(root)
        if new is not old[path]
    }


def parameters_of(root: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All parameters under all their paths."""
    return root.named_parameters(remove_duplicate=False)


def adopt(model: nn.Module, successors: dict[Tensor, Tensor]) -> None:
    """Gives the user's modules the sharded parameters, where other modules run in their stead."""
    for module in model.modules():
        for name, tensor in module._parameters.items():
            if tensor is not None and tensor in successors:
                module._parameters[name] = cast(nn.Parameter, successors[tensor])


def _shard(model: nn.Module, blocks: Sequence[str], layout: ShardLayout, whole: set[Tensor]) -> None:
    """Shards each block that shares no parameter with the rest, then the model."""
    ignored = cast(set[nn.Parameter], whole)
    # one place for all that share a mesh: torch gathers what has the same object together
    meshes = {id(mesh): _place(mesh) for mesh in layout.elsewhere.values() if mesh is not None}
    places = {tensor: meshes[id(mesh)] for tensor, mesh in layout.elsewhere.items() if mesh is not None}
    chosen = places.get if places else None
    alone = [block for block in map(model.get_submodule, blocks) if stands_alone(model, block)]
    # the whole model's parameters stay gathered until its backward; without blocks its hook is the only one
    for module in alone or [model]:
        with_own_outputs(module)
    for block in alone:
        fully_shard(block, mesh=layout.mesh, ignored_params=ignored, shard_placement_fn=chosen)
    fully_shard(model, mesh=layout.mesh, ignored_params=ignored, shard_placement_fn=chosen)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # the sum, not the mean; gloo has no operation that divides
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)
            # where one worker has a gradient and another has none, both have to scatter it
            module.set_reduce_scatter_unused_params(True)


def _place(mesh: DeviceMesh) -> ShardPlacementResult:
    """Shards along the first dim on a mesh of one axis."""
    return ShardPlacementResult(placement=Shard(0), mesh_info=FSDPMeshInfo(mesh, shard_mesh_dim=0))


def repoint(
    optimizer: Optimizer,
    successors: dict[Tensor, Tensor],
    *,
    part: Callable[[Any, Tensor, Tensor], Any] | None = None,
) -> None:
    """Gives the optimizer the sharded parameters in the places of the whole ones, with what it knows of them.

    Args:
        optimizer: the user's.
        successors: by what they replace.
        part: of a value of its state, a whole parameter and its successor; None: sharded as the successor is.
    """
    cut = part or _like
    for group in optimizer.param_groups:
        group["params"][:] = [successors.get(tensor, tensor) for tensor in group["params"]]
    for old, new in successors.items():
        if old is not new and old in optimizer.state:
            state = optimizer.state.pop(old)
            optimizer.state[new] = {key: cut(value, old, new) for key, value in state.items()}


def update_apart(optimizer: Optimizer, *_: Any) -> None:
    """Before a step: takes forms of the update off groups that torch cannot update in them.

    Experts and scalars are whole beside shards, or in shards of another mesh, which no single fused or foreach call
    takes; and of the fused forms torch knows only Adam's for shards. A checkpoint of another plan brings its own forms,
    so that every step is looked at.
    """
    for group in optimizer.param_groups:
        meshes = {tensor.device_mesh if isinstance(tensor, DTensor) else None for tensor in group["params"]}
        unknown = len(meshes) > 1 or (meshes != {None} and not isinstance(optimizer, (Adam, AdamW)))
        wrong = {"fused": unknown, "foreach": len(meshes) > 1}
        group.update({form: False for form, is_wrong in wrong.items() if is_wrong and form in group})


def _like(value: Any, old: Tensor, new: Tensor) -> Any:
    if isinstance(value, Tensor) and isinstance(new, DTensor) and value.shape == old.shape:
        return distribute_tensor(value, new.device_mesh, new.placements)
    return value


def spans_of(tensor: Tensor) -> tuple[Span, ...]:
    """Where a shard lies in the parameter."""
    if not isinstance(tensor, DTensor):
        return ()
    return tuple(
        Span(dim=placement.dim, index=tensor.device_mesh.get_local_rank(number))
        for number, placement in enumerate(tensor.placements)
        if isinstance(placement, Shard)
    )


def is_sharded(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor)
