"""Images with their channels last: the layout in which convolutions, pooling and normalization read whole vectors."""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

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
    images = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.dim() == 4]
    written = [(tensor, tensor.stride()) for tensor in images if tensor.stride() != _strides(tensor)]
    for tensor, _ in written:
        _lay(tensor, _strides(tensor), optimizer)
    try:
        yield
    finally:
        for tensor, strides in written:
            _lay(tensor, strides, optimizer)


def _strides(image: Tensor) -> tuple[int, ...]:
    """Strides with the channels last, also where one channel or pixel makes torch take either layout for both.

    A first convolution of one channel would otherwise give its output with the channels first, and every operation up
    to the next convolution would mix the layouts (a ReLU's backward: 10 times slower).
    """
    _, channels, height, width = image.shape
    return (height * width * channels, 1, width * channels, channels)


def _lay(tensor: Tensor, strides: tuple[int, ...], optimizer: Optimizer | None) -> None:
    """Lays a parameter out anew, with all that belongs to it.

    Fused updates walk parameter, gradient and state in the order of memory: they have to lie alike.
    """
    tensor.data = _laid(tensor.data, strides)
    if tensor.grad is not None:
        tensor.grad = _laid(tensor.grad, strides)
    state = optimizer.state.get(tensor, {}) if optimizer is not None else {}
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape == tensor.shape:
            state[name] = _laid(value, strides)


def _laid(value: Tensor, strides: tuple[int, ...]) -> Tensor:
    return value.new_empty_strided(value.shape, strides).copy_(value)
