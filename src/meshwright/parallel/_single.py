"""One worker: the user's own program, with nothing added to its step."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from meshwright.parallel._named import all_parameters, state_pieces
from meshwright.parallel._parallelized import Held, Parallelized
from meshwright.parallel._pieces import Piece
from meshwright.parallel._recompute import Recomputation
from meshwright.units import Seconds


class SingleWorker(Parallelized):
    """A model and its optimizer as they are.

    Args:
        model: the user's.
        optimizer: the user's.
        recomputation: of the blocks that the strategy names.
        parameters: names and tensors of those that this worker has; None: all of the model and the optimizer.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        recomputation: Recomputation,
        *,
        parameters: Sequence[tuple[str, Tensor]] | None = None,
    ) -> None:
        self._model = model
        self.optimizer = optimizer
        self._recomputation = recomputation
        self._named = all_parameters(model, optimizer) if parameters is None else list(parameters)

    @property
    def model(self) -> nn.Module:
        """The user's model."""
        return self._model

    @property
    def forwards_together(self) -> bool:
        """Nobody to do it with."""
        return False

    @property
    def communication_seconds(self) -> Seconds:
        """None."""
        return 0.0

    def micro_batch(self, last: bool) -> AbstractContextManager[object]:
        """Adds nothing."""
        del last
        return nullcontext()

    def reduce(self, divisor: float) -> None:
        """Divides the gradients."""
        gradients = [tensor.grad for _, tensor in self._named if tensor.grad is not None]
        if divisor != 1 and gradients:
            torch._foreach_div_(gradients, divisor)

    def clip(self, max_norm: float) -> Tensor:
        """Scales the gradients as `torch.nn.utils.clip_grad_norm_` does; their norm before."""
        return nn.utils.clip_grad_norm_([tensor for _, tensor in self._named], max_norm)

    def stepping(self) -> AbstractContextManager[object]:
        """Adds nothing."""
        return nullcontext()

    def zero_gradients(self) -> None:
        """Forgets all gradients."""
        for _, tensor in self._named:
            tensor.grad = None

    def full_gradients(self) -> dict[str, Tensor | None]:
        """Copies of all gradients by name."""
        return {
            name: None if tensor.grad is None else tensor.grad.detach().clone()
            for name, tensor in self._named
            if tensor.requires_grad
        }

    def full_parameters(self) -> dict[str, Tensor]:
        """Copies of all parameters by name."""
        return {name: tensor.detach().clone() for name, tensor in self._named}

    def full_state_dict(self) -> dict[str, Tensor]:
        """A copy of the model's `state_dict`."""
        return {
            key: value.detach().clone() if isinstance(value, Tensor) else value
            for key, value in self._model.state_dict().items()
        }

    def held(self) -> list[Held]:
        """All parameters."""
        return [Held(name=name, parameter=tensor) for name, tensor in self._named]

    def held_state(self) -> list[Piece]:
        """The model's state."""
        return state_pieces(self._model)

    def close(self) -> None:
        """Takes the wrappers of recomputed blocks off."""
        self._recomputation.close()
        self.zero_gradients()
