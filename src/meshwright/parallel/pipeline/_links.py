"""Activations and gradients between the workers of a pipeline, sent and received while they compute.

A tensor travels as the bytes of its memory in its own layout, whatever its type. Both sides know type and layout from
the program, so nothing is negotiated.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from meshwright.parallel.pipeline._stages import Value
from meshwright.units import Seconds


class Arrival:
    """A tensor on its way to this worker.

    Args:
        fetch: waits for it; called once.
    """

    def __init__(self, fetch: Callable[[], Tensor]) -> None:
        self._fetch = fetch

    def wait(self) -> Tensor:
        """The tensor, once it is here; asked for once.

        Raises:
            WorkerError: the other worker has ended, or does not answer.
        """
        return self._fetch()


class Links(ABC):
    """This worker's links to the others of its pipeline.

    Attributes:
        rank: of this worker among them.
        size: how many they are.
        ahead: how many actions before its own a receive may be started.
        waited: how long this worker waited for messages so far (s).
    """

    rank: int
    size: int
    ahead: int
    waited: Seconds

    @abstractmethod
    def send(self, tensor: Tensor, value: Value, *, to: int, number: int) -> None:
        """Begins to send a tensor.

        Args:
            tensor: an activation, or its gradient.
            value: what it is.
            to: the worker.
            number: of the message, different from all that are under way.
        """

    @abstractmethod
    def receive(self, value: Value, *, source: int, number: int) -> Arrival:
        """Begins to receive a tensor.

        Args:
            value: what it is.
            source: the worker that sends it.
            number: of the message.
        """

    def here(self, tensor: Tensor) -> Arrival:
        """A tensor that another stage of this worker made."""
        detached = tensor.detach()
        return Arrival(lambda: detached)

    @abstractmethod
    def finish(self) -> None:
        """Waits until no message is left with this worker."""

    @abstractmethod
    def close(self) -> None:
        """Ends what was opened for the links."""


def space_for(value: Value, device: torch.device) -> Tensor:
    """Memory in a value's layout."""
    return torch.empty_strided(value.shape, value.stride, dtype=value.dtype, device=device)


def laid_out(flat: Tensor, value: Value) -> Tensor:
    """A value whose memory is these bytes."""
    return torch.as_strided(flat.view(value.dtype), value.shape, value.stride)


def bytes_to_send(tensor: Tensor, value: Value) -> Tensor:
    """A tensor's bytes in its value's layout."""
    assert tensor.shape == value.shape and tensor.dtype == value.dtype, (value, tensor.shape, tensor.dtype)  # noqa: PT018
    tensor = tensor.detach()
    if tensor.stride() != value.stride or tensor.is_conj() or tensor.is_neg():
        tensor = space_for(value, tensor.device).copy_(tensor)
    return bytes_of(tensor)


def bytes_of(tensor: Tensor) -> Tensor:
    """All bytes of a tensor that fills its memory."""
    return torch.as_strided(tensor, (tensor.numel(),), (1,)).view(torch.uint8)
