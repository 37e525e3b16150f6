"""Parameters, gradients and optimizer state in shards; whole parameters are gathered block by block when needed."""

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from meshwright.cost import Strategy
from meshwright.errors import PlanError
from meshwright.exchange import GradientExchange, SharedMemoryTransport, Transport
from meshwright.parallel._agreement import Buffers
from meshwright.parallel._batch_norm import GlobalBatchNorm
from meshwright.parallel._encoded_shards import EncodedShards
from meshwright.parallel._gather_ahead import GatherAhead
from meshwright.parallel._global_norm import global_norm
from meshwright.parallel._named import state_pieces
from meshwright.parallel._parallelized import Held, Parallelized
from meshwright.parallel._pieces import Piece
from meshwright.parallel._presence import Presence
from meshwright.parallel._recompute import Recomputation
from meshwright.parallel._shard_exchange import exchange_by
from meshwright.parallel._shards import (
    ShardLayout,
    adopt,
    is_sharded,
    parameters_of,
    repoint,
    sharded,
    spans_of,
    update_apart,
)
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
        layout: what is sharded where.
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
        layout: ShardLayout,
        group: dist.ProcessGroup | None,
        transport: Transport,
        batch_norm: GlobalBatchNorm | None,
        recomputation: Recomputation,
    ) -> None:
        self._model = model
        self.optimizer = optimizer
        self._transport = transport
        self._batch_norm = batch_norm
        self._recomputation = recomputation
        self._num_replicas = layout.mesh.size(0) if layout.mesh.ndim > 1 else 1
        self._roots = [root for root, _ in layout.roots]
        before = layout.parameters
        successors = sharded(layout)
        self._encoded = self._encoded_exchange(strategy, layout)
        self._shards = None if layout.elsewhere or self._encoded else self._shared_exchange(strategy, group)
        # torch gathers ahead on streams, and functions of ours are done when they return
        waits = layout.mesh.device_type == "cpu" and self._shards is None and self._encoded is None
        self._ahead = [GatherAhead(cast(FSDPModule, root)) for root in self._roots] if waits else []
        self._named = [(name, successors.get(tensor, tensor)) for name, tensor in before]
        adopt(model, successors)
        if optimizer is not None:
            repoint(optimizer, {old: new for (_, old), (_, new) in zip(before, self._named, strict=True)})
        self._form = None if optimizer is None else optimizer.register_step_pre_hook(update_apart)
        self._requires_gradient = [tensor.requires_grad for _, tensor in self._named]
        bucket_size = strategy.exchange.bucket_size
        self._whole = GradientExchange(
            [
                (name, tensor)
                for name, tensor in self._named
                if not is_sharded(tensor) and tensor.requires_grad and tensor not in layout.elsewhere
            ],
            transport,
            bucket_size=bucket_size,
        )
        names = {tensor: name for name, tensor in self._named if is_sharded(tensor)}
        self._presence = Presence(
            self._roots,
            [{path: names[tensor] for path, tensor in parameters_of(root) if tensor in names} for root in self._roots],
        )
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
        norm = global_norm(
            self._local_gradients(sharded=True),
            self._local_gradients(sharded=False),
            transport=self._transport,
            device=self._device,
            num_copies=self._num_replicas,
        )
        self._waited += time.perf_counter() - started
        gradients = self._local_gradients()
        if gradients:
            torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """The optimizer steps the shards; buffers follow."""
        yield
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

    def held(self) -> list[Held]:
        """This worker's shards, and what is whole."""
        return [Held(name=name, parameter=tensor, spans=spans_of(tensor)) for name, tensor in self._named]

    def held_state(self) -> list[Piece]:
        """The model's state."""
        return state_pieces(self._model, spans_of)

    def carried(self) -> Iterator[tuple[str, Tensor]]:
        """What messages have left out so far, summed over the workers; all of them ask for it."""
        return iter(()) if self._encoded is None else self._encoded.carried()

    def carry(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from what `carried` gave."""
        if self._encoded is not None:
            self._encoded.carry(state)

    def close(self) -> None:
        """Takes hooks and wrappers off; the parameters stay sharded, and the model cannot run any further."""
        self.zero_gradients()
        self._presence.close()
        for ahead in self._ahead:
            ahead.close()
        if self._form is not None:
            self._form.remove()
        self._whole.close()
        self._buffers.close()
        self._recomputation.close()
        self._transport.close()
        if self._shards is not None:
            self._shards.close()
        if self._encoded is not None:
            self._encoded.close()
        if self._batch_norm is not None:
            self._batch_norm.close()

    def _shared_exchange(self, strategy: Strategy, group: dist.ProcessGroup | None) -> SharedMemoryTransport | None:
        """Where the plan says so and all workers hold shards of one copy, shards travel through shared memory too."""
        if strategy.exchange.transport != "shared_memory" or self._num_replicas > 1:
            return None
        transport = SharedMemoryTransport(group)
        for module in (module for root in self._roots for module in root.modules()):
            if isinstance(module, FSDPModule):
                exchange_by(module, gather=transport.all_gather, scatter=transport.reduce_scatter)
        return transport

    def _encoded_exchange(self, strategy: Strategy, layout: ShardLayout) -> EncodedShards | None:
        """Where the plan says so, shards travel in fewer bits."""
        choice = strategy.exchange.compression
        if choice is None:
            return None
        modules = {
            f"{number}.{path}": module
            for number, root in enumerate(self._roots)
            for path, module in root.named_modules()
            if isinstance(module, FSDPModule)
        }
        return EncodedShards(modules, choice, group=layout.mesh.get_group(), device=layout.parameters[0][1].device)

    @property
    def _device(self) -> torch.device:
        return self._named[0][1].device

    def _local_gradients(self, *, sharded: bool | None = None) -> list[Tensor]:
        """What this worker holds of the gradients: of all parameters, or of those (not) sharded."""
        return [
            tensor.grad.to_local() if isinstance(tensor.grad, DTensor) else tensor.grad
            for _, tensor in self._named
            if tensor.grad is not None and sharded in (None, is_sharded(tensor))
        ]


def _gathered(tensor: Tensor) -> Tensor:
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().clone()
