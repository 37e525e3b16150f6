"""Blocks whose activations are computed again in the backward instead of kept."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from meshwright.parallel._stand_in import StandIn, StandIns, blocks_at

# A block of `transformers` appends to the cache it is handed; done a second time, that would lengthen the keys.
# `transformers` leaves the cache out of recomputed blocks too (modeling_layers.GradientCheckpointingLayer).
_CACHES = ("past_key_value", "past_key_values", "layer_past")


class Recomputation(StandIns):
    """Recomputes blocks of a model until closed.

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
        name = type(model).__name__
        blocks = blocks_at(
            model, paths, missing=lambda path: f"the plan recomputes {path!r}, which {name} does not have"
        )
        super().__init__(blocks, lambda block: Recomputed(block, around or nullcontext()))


class Recomputed(StandIn):
    """A forward that is done again in the backward.

    Args:
        block: whose forward.
        around: entered for the second forward.
        forward: what is computed twice; None: the block's own.
    """

    def __init__(
        self, block: nn.Module, around: AbstractContextManager[Any], *, forward: Callable[..., Any] | None = None
    ) -> None:
        super().__init__(block, forward)
        self._around = around
        self._changed: list[Tensor] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*args, **kwargs)
        if any(kwargs.get(name) is not None for name in _CACHES):
            kwargs |= dict.fromkeys(name for name in _CACHES if name in kwargs)
            kwargs |= {"use_cache": False} if "use_cache" in kwargs else {}
        return checkpoint(partial(self._forward, **kwargs), *args, use_reentrant=False, context_fn=self._contexts)

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
