"""When parameters are gathered and gradients scattered: hooks around a module, and two nodes in autograd's graph.

What a block gives passes a node whose backward gathers the block's parameters. That node has an edge to one that was
made before the block ran. Autograd runs what is ready in the order from the last made to the first, so that the earlier
node's backward comes when all of the block's is done, whether a parameter got a gradient or not: there gradients are
scattered, on every worker at the same place.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from meshwright.parallel.uneven._unit import Unit


class Order:
    """Which unit comes after which, so that the next one is gathered while one computes; as in the forward before."""

    def __init__(self) -> None:
        self._after: dict[Unit | None, Unit] = {}
        self._before: dict[Unit, Unit | None] = {}
        self._last: Unit | None = None

    def begins(self) -> None:
        """A forward begins."""
        self._last = None
        self._begin(self._after.get(None))

    def reaches(self, unit: Unit) -> None:
        """A forward reaches a unit, which is gathered."""
        self._after[self._last], self._before[unit] = unit, self._last
        self._last = unit
        self._begin(self._after.get(unit))

    def returns_to(self, unit: Unit) -> None:
        """A backward reaches a unit, which is gathered."""
        self._begin(self._before.get(unit))

    def _begin(self, unit: Unit | None) -> None:
        if unit is not None:
            unit.begin()


class Passes:
    """Has a block's parameters gathered for its forward and its backward.

    Args:
        block: a module.
        unit: of its parameters.
        order: of all blocks.
    """

    def __init__(self, block: nn.Module, unit: Unit, order: Order) -> None:
        self._unit, self._order = unit, order
        self._tokens: list[Tensor | None] = []
        self._hooks = [
            block.register_forward_pre_hook(self._enter),
            # also where the forward fails: whole parameters may not stay in its place
            block.register_forward_hook(self._leave, always_call=True),
        ]

    def close(self) -> None:
        """Takes the hooks off."""
        for hook in self._hooks:
            hook.remove()

    def _enter(self, *_: object) -> None:
        unit, token = self._unit, None
        if not unit.in_backward and torch.is_grad_enabled() and unit.trains:
            token = _Ended.apply(torch.zeros((), device=unit.cuts[0].shard.device, requires_grad=True), unit)
        self._tokens.append(token)
        unit.gather()
        if not unit.in_backward:
            self._order.reaches(unit)

    def _leave(self, _module: nn.Module, _args: object, output: Any) -> Any:
        token = self._tokens.pop()
        if not self._unit.in_backward:  # a script's own checkpointing calls blocks again in the backward
            self._unit.free()
        if token is None:
            return output
        leaves, structure = pytree.tree_flatten(output)
        places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
        if not places:
            return output
        passed: Sequence[Tensor] = _Begun.apply(token, self._unit, self._order, *(leaves[place] for place in places))
        for place, tensor in zip(places, passed, strict=True):
            leaves[place] = tensor
        return pytree.tree_unflatten(leaves, structure)


class RootPasses:
    """Has what lies between blocks gathered from a forward's begin until the step rests.

    Args:
        root: the module that runs the blocks.
        unit: of what lies between them.
        blocks: the others.
        order: of the blocks.
    """

    def __init__(self, root: nn.Module, unit: Unit, blocks: Sequence[Unit], order: Order) -> None:
        self._unit, self._blocks, self._order = unit, blocks, order
        self._was_gathered: list[bool] = []
        self._hooks = [
            root.register_forward_pre_hook(self._enter),
            root.register_forward_hook(self._leave, always_call=True),
        ]

    def close(self) -> None:
        """Takes the hooks off."""
        for hook in self._hooks:
            hook.remove()

    def _enter(self, *_: object) -> None:
        self._was_gathered.append(self._unit.is_gathered)
        self._unit.gather()
        self._order.begins()

    def _leave(self, *_: object) -> None:
        """Blocks that this forward left out are put back: the next one would find parameters from before the update."""
        for block in self._blocks:
            block.drop()
        if not self._was_gathered.pop() and not torch.is_grad_enabled():
            self._unit.free()


class _Begun(torch.autograd.Function):
    """Lets tensors pass; its backward is the begin of the unit's. Copies, which may be changed in place."""

    @staticmethod
    def forward(ctx: Any, _token: Tensor, unit: Unit, order: Order, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.unit, ctx.order = unit, order
        ctx.set_materialize_grads(False)
        return tuple(tensor.clone() for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.unit.gather()
        ctx.unit.in_backward = True
        ctx.order.returns_to(ctx.unit)
        return (None, None, None, *gradients)


class _Ended(torch.autograd.Function):
    """Made before a unit computes; its backward comes when all of the unit's is done."""

    @staticmethod
    def forward(ctx: Any, trigger: Tensor, unit: Unit) -> Tensor:
        ctx.unit = unit
        ctx.set_materialize_grads(False)
        return trigger.clone()

    @staticmethod
    def backward(ctx: Any, *_gradients: Tensor | None) -> tuple[None, None]:
        ctx.unit.scatter()
        ctx.unit.free()
        return None, None
