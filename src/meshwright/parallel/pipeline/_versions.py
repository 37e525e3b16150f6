"""The parameters that micro-batches under way were forwarded with, and the gradients that those get."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from meshwright.parallel.pipeline._stages import Stage


class Versions:
    """Copies of a stage's parameters, one for each step that has micro-batches under way.

    A copy is a leaf of autograd of its own: the parameters can be updated while it is in use, and the gradients of a
    step's micro-batches meet in it, apart from those of other steps.
    """

    def __init__(self) -> None:
        self._kept: deque[dict[int, Tensor]] = deque()

    def __len__(self) -> int:
        """How many steps have micro-batches under way."""
        return len(self._kept)

    def take(self, parameters: Mapping[str, Tensor]) -> None:
        """Copies the parameters for the micro-batches of the step that begins."""
        self._kept.append(
            {id(tensor): tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in parameters.values()}
        )

    def forward(self, stage: Stage, tensors: Sequence[Tensor], received: Sequence[Tensor]) -> Any:
        """Runs a stage with the newest copies."""
        newest = self._kept[-1]
        places = {
            path: newest[id(tensor)]
            for path, tensor in stage.named_parameters(remove_duplicate=False)
            if id(tensor) in newest
        }
        return functional_call(stage, places, (tensors, received))

    @torch.no_grad()
    def give(self, parameters: Mapping[str, Tensor]) -> None:
        """Gives the parameters the gradients of the oldest copies, and forgets those."""
        oldest = self._kept.popleft()
        for tensor in parameters.values():
            tensor.grad = oldest[id(tensor)].grad

    def clear(self) -> None:
        """Forgets all."""
        self._kept.clear()
