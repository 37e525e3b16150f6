"""What blocks save for their backward in the host's memory: it comes back, tensor by tensor, when the backward asks.

Nothing is computed otherwise than on the device alone, so that results are the same bits.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from meshwright.errors import PlanError
from meshwright.parallel._stand_in import StandIn, StandIns, blocks_at
from meshwright.units import Bytes

# Smaller tensors stay: a copy takes longer to start than to do.
_SMALLEST: Bytes = 64 * 1024


class ActivationOffload(StandIns):
    """Keeps what blocks of a model save on the host until closed.

    Args:
        model: the user's.
        paths: names of its blocks.
        smallest: tensors below this stay on the device (B).

    Raises:
        PlanError: there are no such blocks.
    """

    def __init__(self, model: nn.Module, paths: Sequence[str], *, smallest: Bytes = _SMALLEST) -> None:
        name = type(model).__name__

        def missing(what: str) -> str:
            return f"activations of {what} are to be in the host's memory, and {name} has none"

        if not paths:
            raise PlanError(
                missing("blocks"), cause="the plan was made for another model", command="meshwright plan SCRIPT"
            )
        super().__init__(blocks_at(model, paths, missing=missing), lambda block: _Carried(block, smallest))


class _Carried(StandIn):
    """A forward of which what is saved is carried to the host."""

    def __init__(self, block: nn.Module, smallest: Bytes) -> None:
        super().__init__(block)
        self._smallest = smallest

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*args, **kwargs)
        journey = _Journey(self._block, self._smallest)
        try:
            with saved_tensors_hooks(journey.to_host, _to_device):
                return self._forward(*args, **kwargs)
        finally:
            journey.end()


class _Journey:
    """One forward of a block. What several operations save is carried once.

    Parameters and buffers stay, for they are on the device anyway. Tensors are remembered together with their
    originals while the forward lasts: memory that was given back would otherwise be taken for what lay there before.
    """

    def __init__(self, block: nn.Module, smallest: Bytes) -> None:
        self._kept = {one.untyped_storage().data_ptr() for one in (*block.parameters(), *block.buffers())}
        self._smallest = smallest
        self._carried: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}

    def to_host(self, tensor: Tensor) -> tuple[torch.device, Tensor] | Tensor:
        """A copy in the host's memory, in locked pages; or the tensor itself."""
        if type(tensor) is not Tensor or tensor.layout != torch.strided or tensor.nbytes < self._smallest:
            return tensor
        storage = tensor.untyped_storage().data_ptr()
        if storage in self._kept:
            return tensor
        key = (storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype, tensor._version)
        if key not in self._carried:
            self._carried[key] = tensor, _on_host(tensor)
        return tensor.device, self._carried[key][1]

    def end(self) -> None:
        """Lets go of the originals; autograd keeps this object as long as what it carried."""
        self._carried = {}


def _on_host(tensor: Tensor) -> Tensor:
    pinned = tensor.device.type in ("cuda", "xpu")
    kept = torch.empty_like(tensor, device="cpu", pin_memory=pinned, requires_grad=False)
    return kept.copy_(tensor, non_blocking=pinned)


def _to_device(packed: tuple[torch.device, Tensor] | Tensor) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    device, kept = packed
    return kept.to(device, non_blocking=True)
