"""One worker that does everything: the plain step, behind the same surface as a parallel one."""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from meshwright.parallel import Held, Piece

_NOTHING = nullcontext()


class SoleWorker:
    """A model and its optimizer on one device, with nothing around them.

    Args:
        model: the user's.
        optimizer: the user's.
    """

    communication_seconds = 0.0
    forwards_together = False

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model = model
        self._optimizer = optimizer
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def micro_batch(self, last: bool) -> AbstractContextManager[None]:  # noqa: ARG002  (the surface it shares)
        """Around the forward and backward of a micro-batch."""
        return _NOTHING

    def reduce(self, divisor: float) -> None:
        """Divides the gradients."""
        if divisor != 1.0:
            gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
            torch._foreach_div_(gradients, divisor)

    def clip(self, max_norm: float) -> Tensor:
        """Scales the gradients down to a norm; returns the norm before."""
        return nn.utils.clip_grad_norm_(self._parameters, max_norm)

    def update(self) -> None:
        """The user's optimizer step."""
        self._optimizer.step()

    def zero_gradients(self) -> None:
        """Forgets the gradients."""
        self._optimizer.zero_grad()

    def full_gradients(self) -> dict[str, Tensor | None]:
        """Copies of the gradients by the parameters' names."""
        return {
            name: None if parameter.grad is None else parameter.grad.detach().clone()
            for name, parameter in self.model.named_parameters()
        }

    def full_parameters(self) -> dict[str, Tensor]:
        """Copies of the parameters by name."""
        return {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}

    def full_state_dict(self) -> dict[str, Tensor]:
        """The model's state."""
        return self.model.state_dict()

    def held(self) -> "list[Held]":
        """All parameters."""
        from meshwright.parallel import Held

        return [Held(name=name, parameter=parameter) for name, parameter in self.model.named_parameters()]

    def held_state(self) -> "list[Piece]":
        """The model's state."""
        from meshwright.parallel import Piece

        return [Piece(name=key, tensor=value) for key, value in self.model.state_dict().items()]

    def close(self) -> None:
        """Leaves everything as it is."""
