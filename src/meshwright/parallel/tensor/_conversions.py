"""A tensor given another layout, in the forward, and its gradient given back in the layout it came in."""

from typing import Any

import torch
from torch import Tensor

from meshwright.parallel.program import Target
from meshwright.parallel.tensor._communicator import Communicator
from meshwright.parallel.tensor._layout import COPIED, PARTIAL, REPLICATED, Layout, Split
from meshwright.parallel.tensor._parts import part_of, placed, stacked_parts, whole_of

# The layout of the gradient of a tensor with a layout.
_GRADIENTS = {REPLICATED: REPLICATED, COPIED: PARTIAL, PARTIAL: REPLICATED}
# The layout in which a tensor's value is, whatever its gradient.
_VALUES = {REPLICATED: REPLICATED, COPIED: REPLICATED, PARTIAL: PARTIAL}


class Conversion(Target):
    """Changes the layout of a tensor; a target of nodes of a graph.

    Args:
        before: the layout there is.
        after: the layout that is wanted.
        communicator: of the axis.
    """

    def __init__(self, before: Layout, after: Layout, communicator: Communicator) -> None:
        super().__init__(f"{_name(before)}_to_{_name(after)}")
        self.before = before
        self.after = after
        self.communicator = communicator

    def __call__(self, tensor: Tensor) -> Tensor:
        """The tensor in the layout that is wanted."""
        return _Converted.apply(tensor, self)  # pyrefly: ignore

    def forward(self, tensor: Tensor) -> Tensor:
        """The value in its new layout."""
        return moved(tensor, _value(self.before), _value(self.after), self.communicator)

    def backward(self, gradient: Tensor) -> Tensor:
        """The gradient as it belongs to the layout there was."""
        return moved(gradient, _gradient(self.after), _gradient(self.before), self.communicator)


class _Converted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, conversion: Conversion) -> Tensor:
        ctx.conversion = conversion
        result = conversion.forward(tensor)
        return result.view_as(result) if result is tensor else result

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return ctx.conversion.backward(gradients[0]), None


class CopyTogether(Target):
    """Hands out replicated tensors whose gradients come back in parts: one sum over the workers for all of them.

    Args:
        communicator: of the axis.
    """

    def __init__(self, communicator: Communicator) -> None:
        super().__init__("copy_together")
        self.communicator = communicator

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The tensors."""
        return _CopiedTogether.apply(self, *tensors)  # pyrefly: ignore


class _CopiedTogether(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, copy: CopyTogether, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.copy = copy
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        summed = ctx.copy.communicator.all_reduce(flat)
        parts = summed.split([gradient.numel() for gradient in gradients])
        return None, *(part.view(gradient.shape) for part, gradient in zip(parts, gradients, strict=True))


def moved(tensor: Tensor, before: Layout, after: Layout, communicator: Communicator) -> Tensor:
    """A value of one layout in another; both are replicated, partial or split.

    Args:
        tensor: this worker's.
        before: its layout.
        after: the layout that is wanted.
        communicator: of the axis.
    """
    if before == after:
        return tensor
    if isinstance(after, Split):
        return _to_split(tensor, before, after, communicator)
    if isinstance(before, Split):
        if after is PARTIAL:
            return placed(tensor, before, coordinate=communicator.coordinate, degree=communicator.size)
        return whole_of(communicator.all_gather(tensor.contiguous()), before).contiguous()
    if before is PARTIAL:
        return communicator.all_reduce(tensor.clone(memory_format=torch.contiguous_format))
    return tensor if communicator.coordinate == 0 else torch.zeros_like(tensor)


def _to_split(tensor: Tensor, before: Layout, after: Split, communicator: Communicator) -> Tensor:
    if isinstance(before, Split):
        return _exchanged(tensor, before, after, communicator)
    if before is PARTIAL:
        return communicator.reduce_scatter(stacked_parts(tensor, after, communicator.size))
    return part_of(tensor, after, coordinate=communicator.coordinate, degree=communicator.size).contiguous()


def _exchanged(tensor: Tensor, before: Split, after: Split, communicator: Communicator) -> Tensor:
    if before.dim == after.dim:
        whole = whole_of(communicator.all_gather(tensor.contiguous()), before)
        return part_of(whole, after, coordinate=communicator.coordinate, degree=communicator.size).contiguous()
    received = communicator.all_to_all(stacked_parts(tensor, after, communicator.size))
    return whole_of(received, before).contiguous()


def _value(layout: Layout) -> Layout:
    return layout if isinstance(layout, Split) else _VALUES[layout]


def _gradient(layout: Layout) -> Layout:
    return layout if isinstance(layout, Split) else _GRADIENTS[layout]


def _name(layout: Layout) -> str:
    if isinstance(layout, Split):
        return f"split_{layout.dim}" + (f"_in_{layout.groups}" if layout.groups > 1 else "")
    return layout.value
