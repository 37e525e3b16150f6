"""The expert axis of a worker: which experts it keeps, and programs in which tokens travel."""

from dataclasses import replace

import torch.distributed as dist
from torch import nn
from torch.fx import Graph, GraphModule, Node
from torch.optim import Optimizer

from meshwright.cost import Placement, Strategy
from meshwright.errors import PlanError
from meshwright.parallel._named import all_parameters
from meshwright.parallel._pieces import Span
from meshwright.parallel.expert._mixture import Mixture, mixtures
from meshwright.parallel.expert._route import Leave, Return, Route, offsets_of
from meshwright.parallel.program import Program
from meshwright.parallel.tensor import Communicator, Shards, make_communicator


class ExpertAxis:
    """Spreads the experts of programs over `ep`, all alike; the first one splits the parameters too.

    Args:
        model: the user's.
        optimizer: the user's.
        strategy: degree.
        group: the workers that together hold all experts; None for one.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer | None, strategy: Strategy, *, group: dist.ProcessGroup | None
    ) -> None:
        self._tensors = dict(all_parameters(model, optimizer))
        self._optimizer = optimizer
        self._degree = strategy.mesh.ep
        self._communicator = None if group is None else make_communicator(group, strategy)
        self.spans: dict[str, tuple[Span, ...]] = {}

    def localized(self, program: Program) -> Program:
        """The program on this worker's experts.

        Raises:
            PlanError: the program has no mixture whose experts can be spread so.
        """
        if self._communicator is None:
            return program
        found = mixtures(program)
        self._check(found)
        if not self.spans:
            self._split([name for mixture in found for name in mixture.parameters], self._communicator)
        graph = _Travelling(found, self._communicator, degree=self._degree).graph(program.graph_module)
        return replace(program, graph_module=GraphModule(program.graph_module, graph))

    def _check(self, found: list[Mixture]) -> None:
        if not found:
            raise PlanError(
                f"expert = {self._degree}: the model has no mixture of experts in a form that can be spread",
                cause="experts are found as grouped products of sorted tokens, as transformers computes them",
                alternatives=["--set expert=1", "--set tensor=2"],
                command="meshwright plan SCRIPT, without expert",
            )
        for mixture in found:
            if mixture.experts % self._degree:
                raise PlanError(
                    f"expert = {self._degree} does not divide the {mixture.experts} experts of {mixture.module}",
                    cause="every worker holds equally many experts",
                    alternatives=[
                        f"--set expert={degree}"
                        for degree in range(2, mixture.experts + 1)
                        if not mixture.experts % degree
                    ],
                )

    def close(self) -> None:
        """Gives back what carries tokens."""
        if self._communicator is not None:
            self._communicator.close()

    def _split(self, names: list[str], communicator: Communicator) -> None:
        placements = [Placement(parameter=name, axis="ep", dim=0) for name in names]
        shards = Shards(self._tensors, placements, communicator)
        shards.split_state(self._optimizer)
        shards.split()
        self.spans = shards.spans


class _Travelling:
    """Copies a graph so that the rows of each mixture go to their experts and come back."""

    def __init__(self, found: list[Mixture], communicator: Communicator, *, degree: int) -> None:
        self._inside = {node: mixture for mixture in found for node in mixture.inside}
        self._held = {name for mixture in found for name in mixture.parameters}
        self._communicator = communicator
        self._degree = degree
        self._graph = Graph()
        self._home: dict[Node, Node] = {}
        self._there: dict[Node, Node] = {}
        self._journeys: dict[Mixture, Node] = {}

    def graph(self, source: GraphModule) -> Graph:
        """The graph of one worker."""
        for node in source.graph.nodes:
            mixture = self._inside.get(node)
            if mixture is not None:
                self._add_inside(node, mixture)
                continue
            self._home[node] = self._graph.node_copy(node, lambda operand: self._home[operand])
            if node.op == "get_attr" and str(node.target) in self._held:
                value = node.meta["val"]
                self._home[node].meta["val"] = value.new_empty((value.shape[0] // self._degree, *value.shape[1:]))
        return self._graph

    def _add_inside(self, node: Node, mixture: Mixture) -> None:
        if mixture not in self._journeys:
            self._begin(mixture)
        copied = self._graph.node_copy(node, lambda operand: self._there.get(operand, self._home.get(operand, operand)))
        self._there[node] = copied
        if node in mixture.exits:
            self._home[node] = self._called(Return(self._communicator), copied, mixture, like=node)

    def _begin(self, mixture: Mixture) -> None:
        journey = self._graph.call_function(Route(self._communicator), (self._home[mixture.offsets],))
        self._journeys[mixture] = journey
        offsets = self._graph.call_function(offsets_of, (journey,))
        offsets.meta.update(mixture.offsets.meta)
        self._there[mixture.offsets] = offsets
        for entry in mixture.entries:
            self._there[entry] = self._called(Leave(self._communicator), self._home[entry], mixture, like=entry)

    def _called(self, target: Leave | Return, operand: Node, mixture: Mixture, *, like: Node) -> Node:
        made = self._graph.call_function(target, (operand, self._journeys[mixture]))
        made.meta.update(like.meta)
        return made
