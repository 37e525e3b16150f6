"""The model's repeated blocks in a program: gathered one by one, or computed again in the backward."""

from collections.abc import Sequence

from torch import nn
from torch.fx import GraphModule

from meshwright.cost import Strategy
from meshwright.parallel._recompute import Recomputation
from meshwright.parallel.program import Program, segment


class Blocks:
    """Makes modules of the blocks in every program.

    Args:
        model: the user's.
        strategy: what is recomputed, and whether parameters are in shards.
        paths: of the blocks.

    Raises:
        PlanError: the strategy recomputes a block that the model does not have.
    """

    def __init__(self, model: nn.Module, strategy: Strategy, paths: Sequence[str]) -> None:
        Recomputation(model, strategy.recompute).close()
        self._recomputed = strategy.recompute
        gathered = tuple(paths) if strategy.sharding == "parameters" else ()
        self._paths = dict.fromkeys((*gathered, *strategy.recompute))

    def segmented(self, program: Program) -> GraphModule:
        """A program's graph with a child for every block in it."""
        if not self._paths:
            return program.graph_module
        graph_module = segment(program, tuple(self._paths)).graph_module
        inside = self.inside(graph_module)
        Recomputation(graph_module, [path for path in self._recomputed if path in inside])
        return graph_module

    def inside(self, graph_module: GraphModule) -> tuple[str, ...]:
        """Paths of the blocks that a graph calls."""
        names = {name for name, module in graph_module.named_modules() if isinstance(module, GraphModule)}
        return tuple(path for path in self._paths if path in names)
