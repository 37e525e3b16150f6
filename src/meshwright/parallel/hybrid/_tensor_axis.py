"""The tensor axis of a worker: which parts of parameters, buffers and optimizer state it keeps, and local programs."""

from torch import nn
from torch.optim import Optimizer

from meshwright.cost import Strategy
from meshwright.parallel._named import all_parameters
from meshwright.parallel._pieces import Span
from meshwright.parallel.hybrid._grid import Grid
from meshwright.parallel.program import Program
from meshwright.parallel.tensor import Communicator, Shards, choose_placements, localize, make_communicator


class TensorAxis:
    """Splits programs over `tp`, all alike; the first one splits the tensors too.

    Args:
        model: the user's.
        optimizer: the user's.
        strategy: degree, placements and sequence; nothing of them open.
        grid: this worker's place.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer | None, strategy: Strategy, *, grid: Grid) -> None:
        self._optimizer = optimizer
        self._strategy = strategy
        self._communicator = None if grid.tensor is None else make_communicator(grid.tensor, strategy)
        self._tensors = dict(all_parameters(model, optimizer)) | dict(model.named_buffers())
        self._placements = tuple(placement for placement in strategy.placements if placement.axis == "tp")
        self.spans: dict[str, tuple[Span, ...]] = {}

    def localized(self, program: Program) -> Program:
        """The program on this worker's parts."""
        if self._communicator is None:
            return program
        if not self.spans:
            self._split(self._communicator)
        scheme = choose_placements(
            program,
            degree=self._strategy.mesh.tp,
            sequence=self._strategy.sequence,
            placements=self._placements,
        )
        return localize(program, scheme, communicator=self._communicator)

    def close(self) -> None:
        """Gives back what carries tensors."""
        if self._communicator is not None:
            self._communicator.close()

    def _split(self, communicator: Communicator) -> None:
        shards = Shards(self._tensors, self._placements, communicator)
        shards.split_state(self._optimizer)
        shards.split()
        self.spans = shards.spans
