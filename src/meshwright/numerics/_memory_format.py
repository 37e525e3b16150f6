"""Images with their channels last: the layout in which convolutions, pooling and normalization read whole vectors."""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def memory_format_applied(
    memory_format: Literal["as_written", "channels_last"], *, model: nn.Module, optimizer: Optimizer | None
) -> AbstractContextManager[None]:
    """A context in which four-dimensional weights, their gradients and optimizer states lie with the channels last.

    Activations follow the weights: torch's convolutions give their output in the layout of their weight. Names,
    shapes and values are unchanged, so a state dict is too; leaving the context restores the written layout.
    """
    return _channels_last(model, optimizer) if memory_format == "channels_last" else nullcontext()


@contextmanager
def _channels_last(model: nn.Module, optimizer: Optimizer | None) -> Generator[None]:
    changed = [
        tensor
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.dim() == 4 and not tensor.is_contiguous(memory_format=torch.channels_last)
    ]
    _convert(changed, optimizer, torch.channels_last)
    try:
        yield
    finally:
        _convert(changed, optimizer, torch.contiguous_format)


def _convert(tensors: list[Tensor], optimizer: Optimizer | None, layout: torch.memory_format) -> None:
    for tensor in tensors:
        tensor.data = tensor.data.contiguous(memory_format=layout)
        if tensor.grad is not None:
            tensor.grad = tensor.grad.contiguous(memory_format=layout)
        # Fused updates walk parameter and state in the order of memory: the two have to lie alike.
        state = optimizer.state.get(tensor, {}) if optimizer is not None else {}
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == tensor.shape:
                state[name] = value.contiguous(memory_format=layout)
