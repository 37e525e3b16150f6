"""Parameters, gradients and optimizer state in shards of unequal size."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from meshwright.cost import Strategy
from meshwright.errors import PlanError
from meshwright.exchange import GradientExchange, Transport
from meshwright.parallel._agreement import Buffers
from meshwright.parallel._batch_norm import GlobalBatchNorm
from meshwright.parallel._global_norm import global_norm
from meshwright.parallel._named import stands_alone, state_pieces
from meshwright.parallel._parallelized import Held, Parallelized
from meshwright.parallel._pieces import Piece, Span, everywhere
from meshwright.parallel._recompute import Recomputation
from meshwright.parallel._shards import adopt, repoint
from meshwright.parallel.uneven._parts import GroupParts, Parts, SharedParts
from meshwright.parallel.uneven._passes import Order, Passes, RootPasses
from meshwright.parallel.uneven._unit import Cut, Unit, cut
from meshwright.units import Seconds


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class UnevenLayout:
    """What is sharded where.

    Args:
        roots: modules that run the parameters, each with the names of its blocks, which are gathered one by one.
        parameters: names and tensors of all that this worker has.
        group: the workers, in the order of the shares; None: all there are.
    """

    roots: tuple[tuple[nn.Module, tuple[str, ...]], ...]
    parameters: tuple[tuple[str, Tensor], ...]
    group: dist.ProcessGroup | None


class UnevenShards(Parallelized):
    """Rows of every parameter on every worker, as many as its share; whole parameters block by block when needed.

    Gradients of blocks are scattered in every backward, those of what lies between blocks once a step. Scalars, and
    what only the optimizer knows, are whole everywhere, and their gradients are summed as in data parallelism.

    Args:
        model: the user's, equal on all workers; its parameters become this worker's rows.
        optimizer: the user's; pointed to the rows, with the state it has; it steps each value by itself.
        strategy: shares and exchange.
        layout: what is sharded where.
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
        layout: UnevenLayout,
        transport: Transport,
        batch_norm: GlobalBatchNorm | None,
        recomputation: Recomputation,
    ) -> None:
        self._model, self.optimizer, self._group = model, optimizer, layout.group
        self._transport, self._batch_norm, self._recomputation = transport, batch_norm, recomputation
        before = layout.parameters
        self._parts = _parts(strategy, layout.group)
        self._shares = strategy.shards_among(transport.size)
        self._blocks, self._between, self._passes = list[Unit](), list[Unit](), list[Passes | RootPasses]()
        names = _cuttable(layout)
        for root, blocks in layout.roots:
            self._take(root, blocks, names)
        cuts = {one.name: one for unit in (*self._blocks, *self._between) for one in unit.cuts}
        found = {tensor: cuts[name] for name, tensor in before if name in cuts}
        successors: dict[Tensor, Tensor] = {tensor: one.shard for tensor, one in found.items()}
        adopt(model, successors)
        if optimizer is not None:
            repoint(optimizer, successors, part=lambda value, old, _: _rows_of(value, old, found[old], transport.rank))
        self._spans = {id(one.shard): (Span(dim=0, index=transport.rank),) for one in cuts.values()}
        self._named = [(name, cuts[name].shard if name in cuts else tensor) for name, tensor in before]
        self._cut_names = [name for name, tensor in self._named if name in cuts and tensor.requires_grad]
        self._requires_gradient = [tensor.requires_grad for _, tensor in self._named]
        self._whole = GradientExchange(
            [(name, tensor) for name, tensor in self._named if name not in cuts and tensor.requires_grad],
            transport,
            bucket_size=strategy.exchange.bucket_size,
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
        """Blocks gather and scatter by themselves."""
        if last:
            self._whole.begin()
        return self._batch_norm if self._batch_norm is not None else nullcontext()

    def reduce(self, divisor: float) -> None:
        """Sums what lies between blocks, divides, and forgets the gradients that no worker had."""
        if [tensor.requires_grad for _, tensor in self._named] != self._requires_gradient:
            raise PlanError(
                "parameters were frozen or thawed after the model was sharded",
                cause="which parameters get gradients is settled when they are cut into shards",
                alternatives=["--set sharding=gradients", "freeze or thaw before mw.parallel(…)"],
            )
        started = time.perf_counter()
        self._whole.finish()
        for unit in self._blocks:
            if unit.in_backward:
                unit.scatter()
        for unit in self._between:
            unit.scatter()
        self._rest()
        self._forget_absent()
        self._waited = time.perf_counter() - started
        gradients = [tensor.grad for _, tensor in self._named if tensor.grad is not None]
        if divisor != 1 and gradients:
            torch._foreach_div_(gradients, divisor)

    def clip(self, max_norm: float) -> Tensor:
        """Scales all gradients to a global norm; the norm before."""
        started = time.perf_counter()
        held = [(tensor.grad, id(tensor) in self._spans) for _, tensor in self._named if tensor.grad is not None]
        norm = global_norm(
            [gradient for gradient, is_cut in held if is_cut],
            [gradient for gradient, is_cut in held if not is_cut],
            transport=self._transport,
            device=self._device,
        )
        self._waited += time.perf_counter() - started
        if held:
            torch._foreach_mul_([gradient for gradient, _ in held], (max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """The optimizer steps the rows; buffers follow."""
        self._rest()
        yield
        started = time.perf_counter()
        self._buffers.follow()
        self._waited += time.perf_counter() - started

    def zero_gradients(self) -> None:
        """Forgets all gradients."""
        self._rest()
        self._whole.forget()
        for unit in (*self._blocks, *self._between):
            unit.present.clear()
            for one in unit.cuts:
                one.whole.grad = None
        for _, tensor in self._named:
            tensor.grad = None

    def full_gradients(self) -> dict[str, Tensor | None]:
        """Copies of all gradients, gathered, by name."""
        whole = everywhere(
            [
                Piece(name=held.name, tensor=held.parameter.grad, spans=held.spans)
                for held in self.held()
                if held.parameter.grad is not None
            ],
            self._group,
        )
        return {name: whole.get(name) for name, tensor in self._named if tensor.requires_grad}

    def full_parameters(self) -> dict[str, Tensor]:
        """Copies of all parameters, gathered, by name."""
        pieces = [Piece(name=one.name, tensor=one.parameter.detach(), spans=one.spans) for one in self.held()]
        whole = everywhere(pieces, self._group)
        return {name: whole[name] for name, _ in self._named}

    def full_state_dict(self) -> dict[str, Tensor]:
        """The model's `state_dict`, gathered."""
        whole = everywhere(self.held_state(), self._group)
        return {key: whole.get(key, value) for key, value in self._model.state_dict().items()}

    def held(self) -> list[Held]:
        """This worker's rows, and what is whole."""
        self._rest()
        return [
            Held(name=name, parameter=tensor, spans=self._spans.get(id(tensor), ())) for name, tensor in self._named
        ]

    def held_state(self) -> list[Piece]:
        """The model's state."""
        self._rest()
        return state_pieces(self._model, lambda tensor: self._spans.get(id(tensor), ()))

    def close(self) -> None:
        """Takes hooks and wrappers off; the parameters stay sharded, and the model cannot run any further."""
        self.zero_gradients()
        for passes in self._passes:
            passes.close()
        self._whole.close()
        self._buffers.close()
        self._recomputation.close()
        self._parts.close()
        self._transport.close()
        if self._batch_norm is not None:
            self._batch_norm.close()

    def _take(self, root: nn.Module, blocks: Sequence[str], names: Mapping[Tensor, str]) -> None:
        """Cuts the parameters of a root: each block that stands alone is a unit, all else is one."""
        order, left = Order(), dict(names)
        here = list[Unit]()
        for block in map(root.get_submodule, blocks):
            if stands_alone(root, block) and (own := [one for one in dict.fromkeys(block.parameters()) if one in left]):
                unit = self._unit(block, own, left)
                here.append(unit)
                self._passes.append(Passes(block, unit, order))
        rest = [one for one in dict.fromkeys(root.parameters()) if one in left]
        between = self._unit(root, rest, left)
        self._passes.append(RootPasses(root, between, here, order))
        self._blocks += here
        self._between.append(between)

    def _unit(self, module: nn.Module, tensors: Sequence[Tensor], names: dict[Tensor, str]) -> Unit:
        places: dict[Tensor, list[tuple[nn.Module, str]]] = {}
        for part in module.modules():
            for name, tensor in part._parameters.items():
                if tensor is not None:
                    places.setdefault(tensor, []).append((part, name))
        rank, size = self._transport.rank, self._transport.size
        cuts: list[Cut] = [
            cut(names.pop(one), one, places[one], shares=self._shares, rank=rank) for one in tensors
        ]  # fmt: skip
        unit = Unit(cuts, self._parts, rank=rank, size=size)
        unit.free()
        return unit

    def _rest(self) -> None:
        """Shards everywhere: no forward or backward is under way."""
        for unit in (*self._blocks, *self._between):
            unit.drop()
            if unit.is_gathered:
                unit.free()

    def _forget_absent(self) -> None:
        """Takes away the gradients, all zero, of parameters that got none on any worker."""
        if not self._cut_names:
            return
        present = set().union(*(unit.present for unit in (*self._blocks, *self._between)))
        counts = torch.tensor([float(name in present) for name in self._cut_names], device=self._device)
        self._transport.all_reduce(counts).wait()
        named = dict(self._named)
        for name, count in zip(self._cut_names, counts.tolist(), strict=True):
            if count == 0:
                named[name].grad = None
        for unit in (*self._blocks, *self._between):
            unit.present.clear()

    @property
    def _device(self) -> torch.device:
        return self._named[0][1].device


def _parts(strategy: Strategy, group: dist.ProcessGroup | None) -> Parts:
    if strategy.exchange.transport == "shared_memory":
        return SharedParts(group)
    return GroupParts(cast(dist.ProcessGroup, dist.group.WORLD if group is None else group))


def _cuttable(layout: UnevenLayout) -> dict[Tensor, str]:
    """What has rows, and one root only that gathers it."""
    found = Counter[Tensor](tensor for root, _ in layout.roots for tensor in dict.fromkeys(root.parameters()))
    return {
        tensor: name for name, tensor in layout.parameters if tensor.dim() and tensor.numel() and found[tensor] == 1
    }


def _rows_of(value: Any, whole: Tensor, part: Cut, rank: int) -> Any:
    if isinstance(value, Tensor) and value.shape == whole.shape:
        return value[part.borders[rank] : part.borders[rank + 1]].clone()
    return value
