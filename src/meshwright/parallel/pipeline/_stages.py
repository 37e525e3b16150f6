"""A program cut into stages.

What a stage makes for later ones travels from reader to reader: from the stage that makes it to the first one that
reads it, from there to the next. Stages between that do not read it never see it. The batch's tensors are read by
every stage itself.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from meshwright.parallel.pipeline._cut_points import places_of
from meshwright.parallel.pipeline._flow import Flow
from meshwright.parallel.program import Program


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """An activation that crosses from stage to stage.

    Args:
        name: of the node that makes it.
        shape: of one micro-batch's.
        stride: likewise.
        dtype: data type.
        differentiable: whether its gradient comes back.
        route: the stages that hold it: the one that makes it, then its readers in order.
    """

    name: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    differentiable: bool
    route: tuple[int, ...]

    def before(self, stage: int) -> int:
        """The stage that hands it to a reader."""
        return self.route[self.route.index(stage) - 1]

    def after(self, stage: int) -> int | None:
        """The stage that is handed it next; None after the last reader."""
        place = self.route.index(stage) + 1
        return self.route[place] if place < len(self.route) else None

    @property
    def num_bytes(self) -> int:
        """Size (B)."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class Stage(nn.Module):
    """One stage of a program: takes its tensors of the batch and what it receives, gives what it hands on.

    Args:
        index: number in the order of execution.
        program: with this stage's operations and parameters only. Its graph takes the batch's tensors at `leaves`,
            then `receives`; the last stage's gives the program's output, any other's what it `makes`.
        leaves: which of the batch's tensors it reads.
        receives: activations of earlier stages.
        makes: activations for later stages.
        is_last: whether the loss is here.
    """

    def __init__(
        self,
        *,
        index: int,
        program: Program,
        leaves: tuple[int, ...],
        receives: tuple[Value, ...],
        makes: tuple[Value, ...],
        is_last: bool,
    ) -> None:
        super().__init__()
        self.index = index
        self.program = program
        self.leaves = leaves
        self.receives = receives
        self.makes = makes
        self.is_last = is_last
        self.graph_module: nn.Module = program.graph_module

    def forward(self, tensors: Sequence[Tensor], received: Sequence[Tensor]) -> Any:
        """The loss function's output on the last stage, else the activations that it makes.

        Args:
            tensors: all tensors of the micro-batch.
            received: as `receives` says.
        """
        outputs = self.graph_module(*(tensors[leaf] for leaf in self.leaves), *received)
        return outputs[0] if self.is_last and self.program.output == "mean" else outputs

    def with_graph(self, graph_module: GraphModule) -> "Stage":
        """The same stage computed by another graph with the same inputs and outputs."""
        program = _replaced(self.program, graph_module)
        return Stage(
            index=self.index, program=program, leaves=self.leaves, receives=self.receives, makes=self.makes,
            is_last=self.is_last,
        )  # fmt: skip

    def run_by(self, module: nn.Module) -> "Stage":
        """The same stage computed by a module that stands for its graph, on parameters of its own."""
        stage = self.with_graph(self.program.graph_module)
        stage.graph_module = module
        return stage


def cut(program: Program, cuts: Sequence[str]) -> tuple[Stage, ...]:
    """The stages of a program.

    Args:
        program: whole, or localised along other axes.
        cuts: path of the module whose first operation begins a stage, for every stage but the first.

    Raises:
        PlanError: no stage can begin there.
    """
    flow = Flow(program)
    places = [0, *places_of(flow, cuts), len(flow.operations) + 1]
    stage_of = _stages_of(flow, places)
    values = _values(flow, stage_of, num_stages=len(cuts) + 1)
    return tuple(_stage(flow, stage_of, values, number, last=len(cuts)) for number in range(len(cuts) + 1))


def _stages_of(flow: Flow, places: Sequence[int]) -> dict[Node, int]:
    """The stage of everything that belongs to one; the output is the last one's."""
    found: dict[Node, int] = {}
    stage = 0
    for node, place in sorted(flow.position.items(), key=lambda item: item[1]):
        while place >= places[stage + 1]:
            stage += 1
        found[node] = stage
    return found


def _values(flow: Flow, stage_of: dict[Node, int], *, num_stages: int) -> dict[Node, Value]:
    """What crosses, in the order in which it is made."""
    found: dict[Node, Value] = {}
    for node in flow.position:
        readers = {num_stages - 1 if user.op == "output" else stage_of[user] for user in node.users}
        route = sorted(readers | {stage_of[node]})
        if len(route) > 1:
            value = node.meta["val"]
            found[node] = Value(
                name=node.name,
                shape=tuple(value.shape),
                # the value's own layout without gaps: what is sent fills its memory
                stride=tuple(torch.empty_like(value, memory_format=torch.preserve_format).stride()),
                dtype=value.dtype,
                differentiable=node in flow.differentiable,
                route=tuple(route),
            )
    return found


def _stage(flow: Flow, stage_of: dict[Node, int], values: dict[Node, Value], number: int, *, last: int) -> Stage:
    program = flow.program
    own = [node for node, stage in stage_of.items() if stage == number]
    outputs = program.graph_module.graph.output_node().all_input_nodes if number == last else []
    needed = _needed([*own, *outputs], stage_of, number)
    received = [node for node in values if number in values[node].route[1:]]
    made = [node for node in values if values[node].route[0] == number]
    placeholders = [node for node in program.nodes if node.op == "placeholder"]
    leaves = tuple(place for place, node in enumerate(placeholders) if node in needed)
    graph, new = Graph(), {}
    for node in [*(placeholders[place] for place in leaves), *received]:
        new[node] = graph.placeholder(node.name)
        new[node].meta.update(node.meta)
    for node in program.nodes:
        if node in needed and node not in new:
            new[node] = graph.node_copy(node, lambda other: new[other])
    result = program.graph_module.graph.output_node().args[0] if number == last else tuple(made)
    output = graph.output(torch.fx.map_arg(result, lambda other: new[other]))
    output.meta["val"] = torch.fx.map_arg(result, lambda other: other.meta["val"])
    return Stage(
        index=number,
        program=_replaced(program, GraphModule(program.graph_module, graph)),
        leaves=leaves,
        receives=tuple(values[node] for node in received),
        makes=tuple(values[node] for node in made),
        is_last=number == last,
    )


def _needed(roots: Iterable[Node], stage_of: dict[Node, int], number: int) -> set[Node]:
    """What a stage computes or reads: its own operations, with shared ones, parameters and tensors of the batch."""
    found: set[Node] = set()
    pending = [node for node in roots if stage_of.get(node, number) == number]
    while pending:
        node = pending.pop()
        if node in found:
            continue
        found.add(node)
        pending += [source for source in node.all_input_nodes if stage_of.get(source, number) == number]
    return found


def _replaced(program: Program, graph_module: GraphModule) -> Program:
    """A program with a part of the graph, and the parameters and buffers in it."""
    names = {name for name, _ in graph_module.named_parameters(remove_duplicate=False)}
    buffers = {name for name, _ in graph_module.named_buffers(remove_duplicate=False)}
    return Program(
        graph_module=graph_module,
        inputs=program.inputs,
        output=program.output,
        parameters={name: tensor for name, tensor in program.parameters.items() if name in names},
        buffers={name: tensor for name, tensor in program.buffers.items() if name in buffers},
        tied={name: others for name, others in program.tied.items() if name in names},
        batch_size=program.batch_size,
    )
