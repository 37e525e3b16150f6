"""What one worker computes of a step: its part of the captured program, for every shape of micro-batch that comes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from meshwright.cost import Strategy
from meshwright.parallel._named import all_parameters
from meshwright.parallel._parallelized import Begin, Parallelized
from meshwright.parallel._pieces import Span
from meshwright.parallel.hybrid._grid import Grid
from meshwright.parallel.hybrid._tensor_axis import TensorAxis
from meshwright.parallel.program import Program, Signature, capture_program, signature_of

Loss = Callable[[nn.Module, Any], Any]


class Portion:
    """One worker's part of forward, loss and backward.

    Args:
        model: the user's.
        optimizer: the user's.
        loss: the user's.
        strategy: how the model is split.
        grid: this worker's place.
        context: makes what surrounds a forward.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        loss: Loss,
        strategy: Strategy,
        *,
        grid: Grid,
        context: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._model = model
        self._loss = loss
        self._context = context
        self._named = all_parameters(model, optimizer)
        self._shapes = [tensor.shape for _, tensor in self._named]
        self._tensor = TensorAxis(model, optimizer, strategy, grid=grid)
        self._programs: dict[Signature, Program] = {}

    @property
    def has_loss(self) -> bool:
        """Whether the loss is computed here."""
        return True

    @property
    def forwards_together(self) -> bool:
        """Whether other data ranks wait for this one in the forward."""
        return False

    @property
    def parameters(self) -> list[tuple[str, Tensor]]:
        """What this worker has a part of."""
        return self._named

    @property
    def roots(self) -> list[tuple[nn.Module, tuple[str, ...]]]:
        """The modules that run, each with the names of its blocks."""
        return [(program.graph_module, ()) for program in self._programs.values()]

    def spans(self, name: str) -> tuple[Span, ...]:
        """Where this worker's part of a parameter or buffer lies, by its first name."""
        return self._tensor.spans.get(name, ())

    def prepare(self, batches: Sequence[Any]) -> None:
        """Makes the program for every micro-batch of a new shape."""
        for batch in batches:
            signature = signature_of(self._model, batch)
            if signature not in self._programs:
                with self._whole_shapes():
                    program = capture_program(self._model, self._loss, batch)
                self._programs[signature] = self._tensor.localized(program)

    def compute(self, batches: Sequence[Any], *, data: Parallelized, begin: Begin, ended: Callable[[], object]) -> None:
        """Forward and backward of all micro-batches."""
        last = len(batches) - 1
        for number, batch in enumerate(batches):
            with data.micro_batch(last=number == last):
                with self._context():
                    output = self._programs[signature_of(self._model, batch)](batch)
                begin(output, number).backward()
                ended()

    def sum_tied(self) -> None:
        """Sums the gradients of parameters that several stages use."""

    def has_buffer(self, buffer: Tensor) -> bool:
        """Whether this worker has the newest value of a buffer; those that no program knows are anybody's."""
        return bool(buffer.dim() >= 0)

    def close(self) -> None:
        """Forgets the programs."""
        self._programs.clear()

    @contextmanager
    def _whole_shapes(self) -> Iterator[None]:
        """Parameters of the shapes that the user's forward expects, without memory for it, while it is captured."""
        kept = [tensor.data for _, tensor in self._named]
        try:
            for (_, tensor), shape in zip(self._named, self._shapes, strict=True):
                if tensor.shape != shape:
                    tensor.data = torch.zeros((), dtype=tensor.dtype, device=tensor.device).expand(shape)
            yield
        finally:
            for (_, tensor), data in zip(self._named, kept, strict=True):
                tensor.data = data
