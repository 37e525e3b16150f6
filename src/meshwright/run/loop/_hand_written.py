"""`mw.parallel(model)` alone: the user's own loop, with the model's forward and backward shared out between workers.

    model = mw.parallel(model, plan={"tensor": 2})
    output = model(x)                    # the whole batch, on every worker; each computes its part of it
    criterion(output, y).backward()      # gradients are those of one device when this returns
    optimizer.step()

Every worker runs the whole script on the whole batch, and computes the loss on the whole output, so that the loss need
not be a mean. With output o = (o₁ … oₙ) of n data ranks, ∂L/∂θ = Σ_k (∂L/∂o_k)(∂o_k/∂θ): rank k computes term k, and
the sum is taken when its backward ends. Workers that split the model or the sequence have the whole o_k each.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch import Tensor, nn

from meshwright.errors import UsageError
from meshwright.run.loop._lone_worker import LoneWorker

if TYPE_CHECKING:
    from meshwright.run.loop._planning import LoopPlanner
    from meshwright.run.loop._workers import LoopWorkers


class HandWritten:
    """Stands for a model in a loop that somebody wrote by hand; what it does not do itself is the model's own.

    Args:
        model: the user's, equal on all workers from now on.
        workers: what this worker does, alone or with others.
    """

    def __init__(self, model: nn.Module, workers: "LoneWorker | LoopPlanner | LoopWorkers") -> None:
        self._model = model
        self._workers = workers

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output of the whole batch, which every worker has to call it with.

        Raises:
            BatchError: the inputs have no common number of examples, or differ between workers.
            UsageError: the output has another leading dim than the batch, such as a loss, and the batch is shared out.
            ProgramError: the plan splits the model, and its forward is not one fixed graph.
        """
        return self._workers.outputs(args, kwargs)

    @property
    def is_main(self) -> bool:
        """Whether this worker is the one to print and to write: true on one worker."""
        return not dist.is_initialized() or dist.get_rank() == 0

    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """`torch.nn.utils.clip_grad_norm_` of all the model's gradients, in one exchange; every worker calls it.

        Args:
            max_norm: largest norm of the whole gradient.

        Returns:
            The norm before.
        """
        return self._workers.clip(max_norm)

    def state_dict(self) -> dict[str, Tensor]:
        """The model's, whole; every worker asks for it."""
        return self._workers.state_dict()

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own, before its first call.

        Raises:
            UsageError: parameters are in parts by now.
        """
        if self._workers.is_cut:
            raise UsageError(
                "load_state_dict after the model was split",
                cause="this worker holds parts of its parameters",
                alternatives=["model.load_state_dict(…) before mw.parallel(model)"],
            )
        return self._model.load_state_dict(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._model, name)
        return self._chained(found) if getattr(found, "__self__", None) is self._model else found

    def _chained(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """A method of the model's that gives this in its place where it gives the model: `train`, `eval`, `to`."""

        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            return self if result is self._model else result

        return call
