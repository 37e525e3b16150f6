"""A model of which this worker has a part only: calling it is refused, and a whole copy can be made."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from meshwright.errors import UsageError


class Guard:
    """Keeps the user's model from being called with the parts of parameters that are left in it.

    Its result would be wrong, and nothing would say so.

    Args:
        model: the user's, once it has been split.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._handle = model.register_forward_pre_hook(_refuse)

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Lets it be called for a while, to capture what it does."""
        self._handle.remove()
        try:
            yield
        finally:
            self._handle = self._model.register_forward_pre_hook(_refuse)

    def whole(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        """A copy of the model on whole tensors, without gradients.

        Args:
            tensors: the `state_dict`, gathered.
        """
        with self.lifted():
            # what the model holds now is in parts: they are not copied, only the shapes are taken from the whole
            memo: dict[int, Any] = {}
            for key, value in self._model.state_dict(keep_vars=True).items():
                if isinstance(value, Tensor) and key in tensors and id(value) not in memo:
                    memo[id(value)] = _like(value, tensors[key])
            return copy.deepcopy(self._model, memo)

    def close(self) -> None:
        """Lets the model be called again."""
        self._handle.remove()


def _like(held: Tensor, whole: Tensor) -> Tensor:
    value = whole.detach().to(held.device, copy=True)
    return nn.Parameter(value, requires_grad=False) if isinstance(held, nn.Parameter) else value


@torch.compiler.disable
def _refuse(module: nn.Module, inputs: Any) -> None:
    del inputs
    raise UsageError(
        f"{type(module).__name__} was called, and this worker holds a part of it only",
        cause="the plan splits the model over several workers",
        alternatives=["call step.model(…): the whole model, which every worker has to ask for at the same time"],
    )
