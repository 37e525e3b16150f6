"""The programs of a model: one for every signature of a micro-batch, all transformed alike."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from meshwright.errors import ProgramError
from meshwright.parallel.program._capture import capture_program
from meshwright.parallel.program._peers import peers_of
from meshwright.parallel.program._program import Program
from meshwright.parallel.program._self_check import check, fits_whole, unchecked
from meshwright.parallel.program._signature import Signature, signature_of

Transformation = Callable[[Program], Program]
_LIMIT = 64


class ProgramStore:
    """Captures a program when a micro-batch of a new signature comes, and transforms it.

    The first one is compared with the model, before anything is split, where a whole step fits here.

    Args:
        model: the user's.
        loss: the user's.
        transformation: what makes a worker's part of a program; it may split the parameters when it is first called.
        named: further tensors with the model's parameters' shapes at the time of capture, by name; those of the model
            are always known.
        group: workers that make their first program at the same time and compare it together; None: this one alone.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[nn.Module, Any], Any],
        *,
        transformation: Transformation | None = None,
        named: Sequence[tuple[str, Tensor]] = (),
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self._model = model
        self._loss = loss
        self._transformation = transformation
        self._group = group
        self._tensors = {id(tensor): tensor for tensor in (*model.parameters(), *(tensor for _, tensor in named))}
        self._shapes = {key: tensor.shape for key, tensor in self._tensors.items()}
        self._programs: dict[Signature, Program] = {}

    @property
    def programs(self) -> tuple[Program, ...]:
        """All programs so far, transformed."""
        return tuple(self._programs.values())

    def program(self, batch: Any) -> Program:
        """The program for a micro-batch.

        Raises:
            ProgramError: the step is not one fixed graph, or another one for every batch.
        """
        signature = signature_of(self._model, batch)
        if signature not in self._programs:
            self._check_number(signature)
            self._programs[signature] = self._made(batch)
        return self._programs[signature]

    def _made(self, batch: Any) -> Program:
        with self._whole_shapes():
            program = capture_program(self._model, self._loss, batch)
        if not self._programs:
            self._check(program, batch)
        return self._transformation(program) if self._transformation is not None else program

    def _check(self, program: Program, batch: Any) -> None:
        """Compares a program with the model where that fits on every worker."""
        peers = peers_of(self._group, repr(signature_of(self._model, batch)))
        if all(peers.all(fits_whole(program, self._model))):
            check(program, self._model, self._loss, batch, peers=peers)
        elif program.custom_functions:
            raise unchecked(program, self._model)

    def _check_number(self, signature: Signature) -> None:
        if len(self._programs) < _LIMIT:
            return
        shapes = len({known.tensors for known in self._programs})
        raise ProgramError(
            f"{_LIMIT} kinds of batches so far, {shapes} of them by their shapes; every kind needs a graph of its own",
            cause="lengths or values in the batch that are no tensors differ from batch to batch: "
            f"{', '.join(path for path, _ in signature.constants) or 'lengths'}",
            alternatives=["pad sequences to a few fixed lengths in the loader", "hand numbers over as tensors"],
        )

    @contextmanager
    def _whole_shapes(self) -> Iterator[None]:
        """Parameters of the shapes that the user's forward expects, without memory for it, while it is captured."""
        kept = {key: tensor.data for key, tensor in self._tensors.items()}
        # of the parts' shapes: a hand-written loop may be between a backward and its update
        gradients = {key: tensor.grad for key, tensor in self._tensors.items()}
        try:
            for key, tensor in self._tensors.items():
                tensor.grad = None
                if tensor.shape != self._shapes[key]:
                    tensor.data = _of_shape(tensor, self._shapes[key])
            yield
        finally:
            for key, tensor in self._tensors.items():
                tensor.data = kept[key]
                tensor.grad = gradients[key]


def _of_shape(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Stands for a tensor while a program is captured; a buffer may be written to, which an expanded one cannot be."""
    if isinstance(tensor, nn.Parameter):
        return torch.zeros((), dtype=tensor.dtype, device=tensor.device).expand(shape)
    return torch.empty(shape, dtype=tensor.dtype, device=tensor.device)
