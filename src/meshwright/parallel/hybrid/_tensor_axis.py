"""The tensor axis of a worker: which parts of parameters, buffers and optimizer state it keeps, and local programs."""

from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from meshwright.cost import Placement, Strategy
from meshwright.parallel._named import all_parameters
from meshwright.parallel._pieces import Span
from meshwright.parallel.hybrid._grid import Grid
from meshwright.parallel.program import Program
from meshwright.parallel.tensor import GroupCommunicator, Scheme, Shards, choose_placements, localize


class TensorAxis:
    """Splits programs over `tp`, all alike; the first one splits the tensors too.

    Args:
        model: the user's.
        optimizer: the user's.
        strategy: degree, placements and sequence.
        grid: this worker's place.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer | None, strategy: Strategy, *, grid: Grid) -> None:
        self._optimizer = optimizer
        self._strategy = strategy
        self._grid = grid
        self._tensors = dict(all_parameters(model, optimizer)) | dict(model.named_buffers())
        self._placements: tuple[Placement, ...] | None = None
        self.spans: dict[str, tuple[Span, ...]] = {}

    def localized(self, program: Program) -> Program:
        """The program on this worker's parts."""
        if self._grid.tensor is None:
            return program
        communicator = GroupCommunicator(self._grid.tensor)
        if self._placements is None:
            self._placements = self._agreed_placements(program)
            self._split(communicator)
        scheme = self._scheme(program, self._placements)
        return localize(program, scheme, communicator=communicator)

    def _scheme(self, program: Program, placements: tuple[Placement, ...] | None) -> Scheme:
        return choose_placements(
            program, degree=self._grid.mesh.tp, sequence=self._strategy.sequence, placements=placements
        )

    def _agreed_placements(self, program: Program) -> tuple[Placement, ...]:
        """The plan's; where it has none, what the first worker finds best: shares differ, and with them what is best."""
        given = tuple(placement for placement in self._strategy.placements if placement.axis == "tp")
        if given:
            return given
        message: list[Any] = [None]
        if self._grid.rank == 0:
            message[0] = self._scheme(program, None).placements
        whole = self._grid.whole
        dist.broadcast_object_list(message, src=dist.get_process_group_ranks(whole)[0], group=whole)
        return message[0]

    def _split(self, communicator: GroupCommunicator) -> None:
        assert self._placements is not None
        shards = Shards(self._tensors, self._placements, communicator)
        for name in shards.names:
            tensor = self._tensors[name]
            state = self._optimizer.state.get(tensor, {}) if self._optimizer is not None else {}
            for key, value in state.items():
                if isinstance(value, Tensor) and value.shape == tensor.shape:
                    state[key] = shards.part(name, value)
        shards.split()
        self.spans = {
            placement.parameter: (Span(dim=placement.dim, groups=placement.groups, index=communicator.coordinate),)
            for placement in self._placements
        }
