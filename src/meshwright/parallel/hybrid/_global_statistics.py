"""Batch normalization in a captured program takes its statistics from all workers that have other examples."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from meshwright.exchange import Transport
from meshwright.parallel._batch_norm import normalized
from meshwright.parallel.program import Target

_BATCH_NORM = torch.ops.aten.batch_norm.default


class GlobalStatistics(Target):
    """Stands for `aten.batch_norm` in a graph.

    Args:
        transport: between the workers that have other examples; nothing else uses it at the same time.
    """

    def __init__(self, transport: Transport) -> None:
        super().__init__("global_batch_norm")
        self._transport = transport
        self.is_counted = True

    def __call__(self, *args: Any) -> Tensor:
        """The normalization, with the arguments of `aten.batch_norm`."""
        x, weight, bias, running_mean, running_var, training, momentum, eps = args[:8]
        return normalized(
            self._transport, x, running_mean, running_var, weight, bias, training, momentum, eps,
            is_counted=self.is_counted,
        )  # fmt: skip

    def close(self) -> None:
        """Closes the transport."""
        self._transport.close()

    def put_into(self, graph_module: GraphModule) -> None:
        """Replaces every training-mode batch normalization of a graph, in place."""
        found = [node for node in graph_module.graph.nodes if _is_training(node)]
        for node in found:
            node.target = self
        if found:
            graph_module.recompile()


def _is_training(node: Node) -> bool:
    return node.op == "call_function" and node.target is _BATCH_NORM and bool(node.args[5])
