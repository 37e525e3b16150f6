"""Blocks whose activations are computed again in the backward instead of kept."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from meshwright.errors import PlanError, suggestion

# A block of `transformers` appends to the cache it is handed; done a second time, that would lengthen the keys.
# `transformers` leaves the cache out of recomputed blocks too (modeling_layers.GradientCheckpointingLayer).
_CACHES = ("past_key_value", "past_key_values", "layer_past")


class Recomputation:
    """Recomputes blocks of a model until closed; their classes, names and state stay as they are.

    Args:
        model: the user's.
        paths: names of the blocks in it.
        around: entered for the second forward, which may run in a thread of the backward's own.

    Raises:
        PlanError: no such block.
    """

    def __init__(
        self, model: nn.Module, paths: Sequence[str], *, around: AbstractContextManager[Any] | None = None
    ) -> None:
        names = dict(model.named_modules())
        for path in paths:
            if path not in names:
                raise PlanError(
                    f"the plan recomputes {path!r}, which {type(model).__name__} does not have",
                    cause="the plan was made for another model",
                    alternatives=[hint] if (hint := suggestion(path, list(names))) else [],
                    command="meshwright plan SCRIPT",
                )
        self._blocks = [names[path] for path in paths]
        for block in self._blocks:
            block.forward = Recomputed(block, around or nullcontext())

    def close(self) -> None:
        """Gives the blocks their own forward back."""
        for block in self._blocks:
            forward = block.__dict__.pop("forward", None)
            if isinstance(forward, Recomputed) and forward.own_forward is not None:
                block.forward = forward.own_forward


class Recomputed:
    """Stands for a block's forward on that one object; a copy of the block has its class's forward again.

    Args:
        block: whose forward.
        around: entered for the second forward.
        forward: what is computed twice; None: the block's own.
    """

    def __init__(
        self, block: nn.Module, around: AbstractContextManager[Any], *, forward: Callable[..., Any] | None = None
    ) -> None:
        self._block = block
        self._around = around
        self._forward = block.forward if forward is None else forward
        self.own_forward = block.__dict__.get("forward")
        self._changed: list[Tensor] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*args, **kwargs)
        if any(kwargs.get(name) is not None for name in _CACHES):
            kwargs |= dict.fromkeys(name for name in _CACHES if name in kwargs)
            kwargs |= {"use_cache": False} if "use_cache" in kwargs else {}
        return checkpoint(partial(self._forward, **kwargs), *args, use_reentrant=False, context_fn=self._contexts)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo.get(id(self._block), self._block)
        return type(copied).forward.__get__(copied)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return self._watched(), self._restored()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """The first forward: sees which buffers it changes."""
        buffers = list(self._block.buffers())
        versions = [buffer._version for buffer in buffers]
        yield
        self._changed = [
            buffer for buffer, version in zip(buffers, versions, strict=True) if buffer._version != version
        ]

    @contextmanager
    def _restored(self) -> Iterator[None]:
        """The second forward: running statistics must not move twice."""
        kept = [(buffer, buffer.clone()) for buffer in self._changed]
        try:
            with self._around:
                yield
        finally:
            for buffer, value in kept:
                # through .data: autograd may have saved the buffer, and must not take this for a change
                buffer.data.copy_(value)
