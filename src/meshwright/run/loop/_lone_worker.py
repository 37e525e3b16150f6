"""A hand-written loop on one worker: the model as it is, with its steps written down where somebody asks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from meshwright.graph.capture_batch import leaves
from meshwright.run.loop._record import LoopRecord


class LoneWorker:
    """The one worker.

    Args:
        model: the user's.
        record: times the steps.
    """

    is_cut = False

    def __init__(self, model: nn.Module, record: LoopRecord) -> None:
        self._model = model
        self._record = record
        self._grad_norm: float | Tensor = 0.0
        if record.recorder is None:
            return
        # torch's optimizers load dynamo, which a script that nobody watches need not
        from meshwright.run.loop._own_optimizer import OwnOptimizers

        self.optimizers = OwnOptimizers(
            dict(model.named_parameters()), None, held=tuple, stepping=self._stepping, stepped=self._stepped
        )
        record.undo.callback(self.optimizers.close)

    def outputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The model's."""
        if self._record.recorder is None:
            return self._model(*args, **kwargs)
        with self._record.forward(_examples(args, kwargs)):
            output = self._model(*args, **kwargs)
        for _, leaf in leaves(output):
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                leaf.register_hook(self._backward_begins)
        return output

    def clip(self, max_norm: float) -> Tensor:
        """As torch does."""
        self._grad_norm = norm = nn.utils.clip_grad_norm_(self._model.parameters(), max_norm)
        return norm

    def state_dict(self) -> dict[str, Tensor]:
        """The model's."""
        return self._model.state_dict()

    def _backward_begins(self, gradient: Tensor) -> None:
        del gradient
        self._record.backward_begins()
        torch.autograd.Variable._execution_engine.queue_callback(self._record.backward_ended)  # type: ignore[attr-defined]

    @contextmanager
    def _stepping(self) -> Iterator[None]:
        self._record.update_begins()
        yield

    def _stepped(self) -> None:
        self._record.stepped(communication=0.0, grad_norm=self._grad_norm)
        self._grad_norm = 0.0


def _examples(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """How many examples a call has, for a rate; 0 where it has no tensor with any."""
    sizes = [len(leaf) for _, leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.dim()]
    return max(sizes, default=0)
