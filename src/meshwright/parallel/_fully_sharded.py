"""Parameters, gradients and optimizer state in shards; whole parameters are gathered block by block when needed."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from meshwright.cost import Mesh, Strategy
from meshwright.errors import PlanError
from meshwright.exchange import GradientExchange, SharedMemoryTransport, Transport
from meshwright.parallel._agreement import Buffers
from meshwright.parallel._batch_norm import GlobalBatchNorm
from meshwright.parallel._named import all_parameters
from meshwright.parallel._parallelized import Parallelized
from meshwright.parallel._presence import Presence
from meshwright.parallel._recompute import Recomputation
from meshwright.parallel._shard_exchange import SharedAllGather, SharedReduceScatter
from meshwright.units import Seconds


class FullySharded(Parallelized):
    """Torch's `fully_shard` on every block and on the whole model (ZeRO stage 3; over part of the mesh: hybrid).

    Gradients are scattered in every micro-batch: to keep them whole until the last would cost what sharding saves.
    Scalars, and parameters that only the optimizer knows, cannot be cut: each worker has them whole, and their
    gradients are summed as in data parallelism.

    Args:
        model: the user's, equal on all workers; its parameters become sharded ones in place.
        optimizer: the user's; pointed to the sharded parameters in place, with the state it has.
        strategy: mesh and exchange.
        blocks: names of the modules that are gathered one by one.
        group: the workers; None: all there are.
        transport: what carries everything but the shards.
        batch_norm: statistics over the global batch, where the model has any.
        recomputation: of the blocks that the strategy names.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        strategy: Strategy,
        *,
        blocks: Sequence[str],
        group: dist.ProcessGroup | None,
        transport: Transport,
        batch_norm: GlobalBatchNorm | None,
        recomputation: Recomputation,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._transport = transport
        self._batch_norm = batch_norm
        self._recomputation = recomputation
        self._num_replicas = strategy.mesh.dp_replicate
        before = all_parameters(model, optimizer)
        whole = [tensor for name, tensor in before if tensor.dim() == 0 or name.startswith("optimizer.")]
        _shard(model, blocks, _mesh(strategy.mesh, before[0][1].device.type, group), set(whole))
        self._shards = self._shared_exchange(strategy, group)
        after = dict(all_parameters(model, None))
        self._named = [(name, after.get(name, tensor)) for name, tensor in before]
        if optimizer is not None:
            _repoint(optimizer, {old: new for (_, old), (_, new) in zip(before, self._named, strict=True)})
        self._requires_gradient = [tensor.requires_grad for _, tensor in self._named]
        bucket_size = strategy.exchange.bucket_size
        self._whole = GradientExchange(
            [(name, tensor) for name, tensor in self._named if not _is_sharded(tensor) and tensor.requires_grad],
            transport,
            bucket_size=bucket_size,
        )
        self._presence = Presence(model, [name for name, tensor in self._named if _is_sharded(tensor)])
        self._buffers = Buffers(model, transport)
        self._waited: Seconds = 0.0

    @property
    def model(self) -> nn.Module:
        """The user's model."""
        return self._model

    @property
    def forwards_together(self) -> bool:
        """Parameters are gathered in the forward."""
        return True

    @property
    def communication_seconds(self) -> Seconds:
        """Time of the last step in `reduce`, `clip` and the exchange of buffers (s); gathering is not in it."""
        return self._waited

    def micro_batch(self, last: bool) -> AbstractContextManager[object]:
        """Shards are exchanged by `fully_shard` itself."""
        if last:
            self._whole.begin()
        return self._batch_norm if self._batch_norm is not None else nullcontext()

    def reduce(self, divisor: float) -> None:
        """Divides the gradients, which are sums already; forgets those that no worker had."""
        if [tensor.requires_grad for _, tensor in self._named] != self._requires_gradient:
            raise PlanError(
                "parameters were frozen or thawed after the model was sharded",
                cause="torch's fully_shard decides once which parameters get gradients",
                alternatives=["--set sharding=gradients", "freeze or thaw before mw.parallel(…)"],
            )
        started = time.perf_counter()
        self._whole.finish()
        absent = set(self._presence.absent_everywhere(self._transport, self._device))
        for name, tensor in self._named:
            if name in absent:
                tensor.grad = None
        self._presence.forget()
        self._waited = time.perf_counter() - started
        gradients = self._local_gradients()
        if divisor != 1 and gradients:
            torch._foreach_div_(gradients, divisor)

    def clip(self, max_norm: float) -> Tensor:
        """Scales all gradients to a global norm; the norm before."""
        started = time.perf_counter()
        squares = torch.zeros(1, dtype=torch.float64, device=self._device)
        for gradient in self._local_gradients(sharded=True):
            squares += torch.linalg.vector_norm(gradient).double().square()
        self._transport.all_reduce(squares).wait()
        squares /= self._num_replicas
        for gradient in self._local_gradients(sharded=False):
            squares += torch.linalg.vector_norm(gradient).double().square()
        self._waited += time.perf_counter() - started
        norm = squares.sqrt()[0]
        gradients = self._local_gradients()
        if gradients:
            torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def update(self) -> None:
        """Steps the optimizer on the shards."""
        if self._optimizer is not None:
            self._optimizer.step()
        started = time.perf_counter()
        self._buffers.follow()
        self._waited += time.perf_counter() - started

    def zero_gradients(self) -> None:
        """Forgets all gradients."""
        self._whole.forget()
        for _, tensor in self._named:
            tensor.grad = None

    def full_gradients(self) -> dict[str, Tensor | None]:
        """Copies of all gradients, gathered, by name."""
        return {
            name: None if tensor.grad is None else _gathered(tensor.grad)
            for name, tensor in self._named
            if tensor.requires_grad
        }

    def full_parameters(self) -> dict[str, Tensor]:
        """Copies of all parameters, gathered, by name."""
        return {name: _gathered(tensor) for name, tensor in self._named}

    def full_state_dict(self) -> dict[str, Tensor]:
        """The model's `state_dict`, gathered."""
        return {
            key: _gathered(value) if isinstance(value, Tensor) else value
            for key, value in self._model.state_dict().items()
        }

    def close(self) -> None:
        """Takes hooks and wrappers off; the parameters stay sharded, and the model cannot run any further."""
        self.zero_gradients()
        self._presence.close()
        self._whole.close()
        self._buffers.close()
        self._recomputation.close()
        self._transport.close()
        if self._shards is not None:
            self._shards.close()
        if self._batch_norm is not None:
            self._batch_norm.close()

    def _shared_exchange(self, strategy: Strategy, group: dist.ProcessGroup | None) -> SharedMemoryTransport | None:
        """Where the plan says so and all workers hold shards of one copy, shards travel through shared memory too."""
        if strategy.exchange.transport != "shared_memory" or strategy.mesh.dp_replicate > 1:
            return None
        transport = SharedMemoryTransport(group)
        for module in self._model.modules():
            if isinstance(module, FSDPModule):
                module.set_custom_all_gather(cast(Any, SharedAllGather(transport)))
                module.set_custom_reduce_scatter(cast(Any, SharedReduceScatter(transport)))
        return transport

    @property
    def _device(self) -> torch.device:
        return self._named[0][1].device

    def _local_gradients(self, *, sharded: bool | None = None) -> list[Tensor]:
        """What this worker holds of the gradients: of all parameters, or of those (not) sharded."""
        return [
            tensor.grad.to_local() if isinstance(tensor.grad, DTensor) else tensor.grad
            for _, tensor in self._named
            if tensor.grad is not None and sharded in (None, _is_sharded(tensor))
        ]


def _mesh(degrees: Mesh, device_type: str, group: dist.ProcessGroup | None) -> DeviceMesh:
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


def _shard(model: nn.Module, blocks: Sequence[str], mesh: DeviceMesh, whole: set[Tensor]) -> None:
    """Shards each block that shares no parameter with the rest, then the model."""
    ignored = cast(set[nn.Parameter], whole)
    for path in blocks:
        block = model.get_submodule(path)
        if block is not model and not _shares_parameters(model, block):
            fully_shard(block, mesh=mesh, ignored_params=ignored)
    fully_shard(model, mesh=mesh, ignored_params=ignored)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # the sum, not the mean; gloo has no operation that divides
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)
            # where one worker has a gradient and another has none, both have to scatter it
            module.set_reduce_scatter_unused_params(True)


def _shares_parameters(model: nn.Module, block: nn.Module) -> bool:
    inside = set(block.modules())
    own = {id(tensor) for tensor in block.parameters()}
    return any(
        id(tensor) in own
        for module in model.modules()
        if module not in inside
        for tensor in module.parameters(recurse=False)
    )


def _repoint(optimizer: Optimizer, successors: dict[Tensor, Tensor]) -> None:
    """Gives the optimizer the sharded parameters in the places of the whole ones, with what it knows of them."""
    for group in optimizer.param_groups:
        group["params"][:] = [successors[tensor] for tensor in group["params"]]
    for old, new in successors.items():
        if old is not new and old in optimizer.state:
            state = optimizer.state.pop(old)
            optimizer.state[new] = {key: _like(value, old, new) for key, value in state.items()}


def _like(value: Any, old: Tensor, new: Tensor) -> Any:
    if isinstance(value, Tensor) and isinstance(new, DTensor) and value.shape == old.shape:
        return distribute_tensor(value, new.device_mesh, new.placements)
    return value


def _is_sharded(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor)


def _gathered(tensor: Tensor) -> Tensor:
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().clone()
