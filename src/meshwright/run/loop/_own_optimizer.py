"""Optimizers that a script steps itself: found out at their first step, made to fit what this worker holds.

A script makes its optimizer before or after `mw.parallel(model)`. Parameters of which a worker has a part stay the
same objects; where shards take their places, the optimizer is given those. Its state is stored and loaded whole.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any
from weakref import WeakSet, ref

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from meshwright.cost import Strategy
from meshwright.errors import PlanError, UsageError
from meshwright.parallel import Held, optimizer_pieces
from meshwright.parallel._pieces import everywhere


class OwnOptimizers:
    """Follows the optimizers of a script that update the parameters of one model.

    Args:
        originals: the model's parameters by name, as they were before anything was split or sharded.
        strategy: that the model follows; None: as it is.
        held: what this worker holds now.
        stepping: surrounds an optimizer's step.
        stepped: called after one.
    """

    def __init__(
        self,
        originals: Mapping[str, Tensor],
        strategy: Strategy | None,
        *,
        held: Callable[[], Sequence[Held]],
        stepping: Callable[[], AbstractContextManager[object]],
        stepped: Callable[[], None],
    ) -> None:
        self._names = {id(tensor): name for name, tensor in originals.items()}
        self._originals = dict(originals)
        self._shapes = {name: tensor.shape for name, tensor in originals.items()}
        self._strategy = strategy
        self._held = held
        self._stepping = stepping
        self._stepped = stepped
        self._known: WeakSet[Optimizer] = WeakSet()
        self._within = ExitStack()
        this: ref[OwnOptimizers] = ref(self)
        handles = (
            register_optimizer_step_pre_hook(lambda optimizer, *_: _told(this, "begins", optimizer)),
            register_optimizer_step_post_hook(lambda optimizer, *_: _told(this, "ended", optimizer)),
        )
        # Not when this is collected as garbage: that may be while torch goes through the hooks of another optimizer's
        # step, which ends where they change. A hook of what is gone does nothing.
        self.close = partial(_remove, handles)

    def begins(self, optimizer: Optimizer) -> None:
        """An optimizer is about to step."""
        if not self._is_ours(optimizer):
            return
        if optimizer not in self._known:
            self._take(optimizer)
            self._known.add(optimizer)
        self._within.enter_context(self._stepping())

    def ended(self, optimizer: Optimizer) -> None:
        """It has."""
        if optimizer in self._known:
            self._within.close()
            self._stepped()

    def _is_ours(self, optimizer: Optimizer) -> bool:
        if optimizer in self._known:
            return True
        ours = {id(item.parameter) for item in self._held()} | set(self._names)
        return any(id(tensor) in ours for group in optimizer.param_groups for tensor in group["params"])

    def _take(self, optimizer: Optimizer) -> None:
        """Makes an optimizer fit; refuses one that steps parts in another way than wholes."""
        if self._strategy is None:
            return
        _check(optimizer, self._strategy)
        held = {item.name: item for item in self._held()}
        for name, item in held.items():
            if item.parameter is self._originals.get(name):
                self._cut_state(optimizer, item)
        successors = {
            tensor: held[name].parameter
            for name, tensor in self._originals.items()
            if name in held and held[name].parameter is not tensor
        }
        if successors:
            from meshwright.parallel._shards import repoint

            repoint(optimizer, successors)
        if any(item.spans for item in held.values()) or self._strategy.sharding != "none":
            optimizer.register_state_dict_post_hook(self._made_whole)

    def _cut_state(self, optimizer: Optimizer, item: Held) -> None:
        """Leaves of state that was loaded whole what belongs to this worker's part."""
        whole, part = self._shapes[item.name], item.parameter.shape
        state = optimizer.state.get(item.parameter, {})
        for key, value in state.items():
            if isinstance(value, Tensor) and value.dim() and value.shape == whole != part:
                state[key] = _part(value, item)

    def _made_whole(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        """The optimizer's `state_dict` with whole tensors; every worker asks for it."""
        tensors = everywhere(optimizer_pieces(optimizer, self._held()), dist.group.WORLD)
        for key, tensor in tensors.items():
            number, _, name = key.partition(".")
            state["state"].setdefault(int(number), {})[name] = tensor
        return state


def _check(optimizer: Optimizer, strategy: Strategy) -> None:
    mesh = strategy.mesh
    parts = mesh.tp > 1 or mesh.ep > 1 or strategy.sharding == "parameters"
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    needs_closure = closure is not None and closure.default is inspect.Parameter.empty
    if needs_closure and (parts or strategy.sharding != "none"):
        raise PlanError(
            f"{type(optimizer).__name__} cannot step what a worker holds under {strategy.summary}",
            cause="it looks at all parameters and gradients together, several times a step",
            alternatives=["AdamW, SGD or another optimizer without a closure", "--set data=2 --set sharding=none"],
            command="meshwright run SCRIPT",
        )
    if parts:
        from meshwright.parallel.hybrid._checks import check

        check(strategy, optimizer)


def _told(this: "ref[OwnOptimizers]", what: str, optimizer: Optimizer) -> None:
    optimizers = this()
    if optimizers is not None:
        getattr(optimizers, what)(optimizer)


def _remove(handles: Sequence[Any]) -> None:
    for handle in handles:
        handle.remove()


def _part(whole: Tensor, item: Held) -> Tensor:
    """The part of a whole tensor that an item's spans lead to."""
    part = whole
    dims = [span.dim for span in item.spans]
    if len(set(dims)) < len(dims):
        raise UsageError(
            f"the optimizer has state of all of {item.name}, which is split twice along dim {dims[0]}",
            cause="it was loaded before the first step",
            alternatives=["mw.parallel(model, optimizer, loss) and step.load"],
        )
    for span in item.spans:
        ranges = part.chunk(span.groups, span.dim)
        degree = whole.shape[span.dim] // item.parameter.shape[span.dim]
        part = torch.cat([one.chunk(degree, span.dim)[span.index] for one in ranges], span.dim)
    return part.clone(memory_format=torch.contiguous_format)
