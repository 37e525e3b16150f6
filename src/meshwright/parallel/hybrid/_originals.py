"""The parameters that the user's modules had before shards took their places: programs are captured on those."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class Originals:
    """The user's own parameters, and where they were.

    Args:
        model: the user's.
    """

    def __init__(self, model: nn.Module) -> None:
        self._places = [
            (module, name, parameter)
            for module in model.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None
        ]

    def hollow(self) -> None:
        """Frees the memory of those that others have taken the place of; shapes stay."""
        for module, name, parameter in self._places:
            if module._parameters[name] is not parameter:
                parameter.data = torch.zeros((), dtype=parameter.dtype, device=parameter.device).expand(parameter.shape)
                parameter.grad = None

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Puts them back for a while."""
        kept = [module._parameters[name] for module, name, _ in self._places]
        if all(now is parameter for now, (_, _, parameter) in zip(kept, self._places, strict=True)):
            yield
            return
        try:
            for module, name, parameter in self._places:
                module._parameters[name] = parameter
            yield
        finally:
            for (module, name, _), now in zip(self._places, kept, strict=True):
                module._parameters[name] = now
