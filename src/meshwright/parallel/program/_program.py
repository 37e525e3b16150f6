"""One training step's forward and loss as a graph."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from meshwright.graph.capture_batch import leaves
from meshwright.parallel.program._forward import Structure, blended

Output = Literal["mean", "total and weight", "outputs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """A tensor of the batch.

    Args:
        path: where it is in the batch (`input_ids`, `0`); empty where the batch is the tensor.
        name: of its placeholder.
        shape: of the captured micro-batch.
        has_examples: whether its leading dim counts examples.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    has_examples: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """Forward and loss of one micro-batch: pre-autograd ATen operations on the user's own tensors.

    Placeholders are the batch's tensors, in the order of `inputs`; parameters, buffers and constants are `get_attr`
    nodes. Every node carries

        meta["val"]     a fake tensor (or several) of the global shape
        meta["module"]  path of the user's module that ran it; "" is the model, None the loss function
        meta["call"]    which call of that module, from 0
        meta["stack"]   path and call of every module around it, from outside in
        meta["random"]  whether it draws random numbers

    and every `get_attr` of a parameter or buffer has the user's name of it as its target, tied ones the first name.

    Args:
        graph_module: takes the batch's tensors; its output is a tuple: the mean, total and weight, or the tensors that
            the model gives.
        inputs: the batch's tensors.
        output: what the loss function returned; `outputs`: the model's, without a loss.
        parameters: those that the graph reads, by the user's first name: the user's own objects.
        buffers: those that the graph reads or writes, likewise.
        tied: further names of parameters, by the first one.
        batch_size: examples in the captured micro-batch.
        structure: how the model's outputs hang together, where there is no loss.
        custom_functions: names of the user's autograd functions; the graph has their forward, autograd its derivative.
    """

    graph_module: GraphModule
    inputs: tuple[Input, ...]
    output: Output
    parameters: dict[str, nn.Parameter]
    buffers: dict[str, Tensor]
    tied: dict[str, tuple[str, ...]]
    batch_size: int
    structure: Structure | None = None
    custom_functions: tuple[str, ...] = ()

    def __call__(self, batch: Any) -> Tensor | tuple[Tensor, Any]:
        """The loss of a batch with the captured signature: the mean, or `(total, weight)`; outputs are blended."""
        outputs = self.graph_module(*tensors_of(batch))
        if self.output == "outputs":
            return blended(outputs)
        return outputs[0] if self.output == "mean" else outputs

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The graph's nodes in the order of execution."""
        return tuple(self.graph_module.graph.nodes)


def tensors_of(batch: Any) -> list[Tensor]:
    """The tensors of a batch, in the order of a program's inputs."""
    return [leaf for _, leaf in leaves(batch) if isinstance(leaf, torch.Tensor)]
