"""What a step changes, kept so that it can be done again."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Snapshot:
    """Parameters, buffers, the optimizer's state and random numbers before some steps.

    Args:
        model: whose buffers are kept.
        optimizer: whose state is kept.
        parameters: what this worker holds of them.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
        self._optimizer = optimizer
        self._values = [(tensor, tensor.detach().clone()) for tensor in (*parameters, *model.buffers())]
        self._state = {
            key: {name: _kept(value) for name, value in held.items()} for key, held in optimizer.state.items()
        }
        self._random = torch.get_rng_state()

    @torch.no_grad()
    def restore(self) -> None:
        """Puts everything back; once only, because the optimizer goes on with what is kept here."""
        for tensor, value in self._values:
            tensor.detach().copy_(value)
        self._optimizer.state.clear()
        self._optimizer.state.update(self._state)
        torch.set_rng_state(self._random)


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Puts buffers back to what they are now: a forward counts examples in them."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    yield
    with torch.no_grad():
        for buffer, value in kept:
            buffer.copy_(value)


def _kept(value: object) -> object:
    return value.clone() if isinstance(value, Tensor) else copy(value)
