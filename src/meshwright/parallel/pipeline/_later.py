"""The gradients of weights put off: the zero-bubble schedule's second half of a backward.

torch's own halves (`torch.distributed.pipelining._backward`) walk the autograd graph in Python for every micro-batch
and keep it whole until the second half. Here the products with weights in the captured graph are exchanged beforehand
for ones whose backward gives the input's gradient and puts the weight's off; all else about a backward stays.
Source: Qi et al. 2023, section 2.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

_aten = torch.ops.aten
_LINEAR, _ADDMM = _aten.linear.default, _aten.addmm.default
_PRODUCTS = (_aten.mm.default, _aten.matmul.default)


class WeightGradients:
    """Weight gradients that wait to be computed."""

    def __init__(self) -> None:
        self._collected: list[Callable[[], None]] | None = None

    def collect(self) -> list[Callable[[], None]]:
        """From now on, backwards put weight gradients off into the list that is given back."""
        self._collected = []
        return self._collected

    def stop(self) -> None:
        """From now on, backwards compute everything."""
        self._collected = None

    def put_off(self, compute: Callable[[], None]) -> bool:
        """Keeps a computation for later; False where it has to be done now."""
        if self._collected is None:
            return False
        self._collected.append(compute)
        return True


def with_late_weights(graph_module: GraphModule, waiting: WeightGradients) -> GraphModule:
    """The same graph with every product of an activation and a trainable parameter able to put its weight off."""
    graph = Graph()
    new: dict[Node, Node] = {}
    for node in graph_module.graph.nodes:
        product = _product(node, graph_module)
        if product is None:
            new[node] = graph.node_copy(node, lambda other: new[other])
            continue
        name, arguments = product
        new[node] = graph.call_module(
            name, tuple(new[argument] if isinstance(argument, Node) else argument for argument in arguments)
        )
        new[node].meta.update(node.meta)
    modules = {
        "late_linear": LateLinear(waiting, transposed=False),
        "late_product": LateLinear(waiting, transposed=True),
    }
    used = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    for name in used & set(modules):
        graph_module.add_submodule(name, modules[name])
    return GraphModule(graph_module, graph)


class LateLinear(nn.Module):
    """A product with a weight.

    Args:
        waiting: where its gradients may wait.
        transposed: whether the weight has its inputs first, as in `x @ w`.
    """

    def __init__(self, waiting: WeightGradients, *, transposed: bool) -> None:
        super().__init__()
        self._waiting = waiting
        self._transposed = transposed

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The product, plus the bias."""
        return _Product.apply(x, weight, bias, self._waiting, self._transposed)  # pyrefly: ignore[bad-return]


class _Product(torch.autograd.Function):
    """y = x wᵀ + b; ∂L/∂x = g w at once, ∂L/∂w = gᵀ x and ∂L/∂b = Σ g perhaps later."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, waiting: WeightGradients, transposed: bool
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.weight, ctx.bias, ctx.waiting, ctx.transposed = weight, bias, waiting, transposed
        return nn.functional.linear(x, weight.t() if transposed else weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x,), g = ctx.saved_tensors, gradients[0]
        weight, bias = ctx.weight, ctx.bias
        input_gradient = None
        if ctx.needs_input_grad[0]:
            matrix = weight.detach().to(g.dtype)
            input_gradient = g.matmul(matrix.t() if ctx.transposed else matrix).to(x.dtype)
        transposed = ctx.transposed

        def weights() -> tuple[Tensor | None, Tensor | None]:
            rows, flat = x.reshape(-1, x.shape[-1]).to(g.dtype), g.reshape(-1, g.shape[-1])
            product = None
            if weight.requires_grad:
                product = (rows.t() @ flat if transposed else flat.t() @ rows).to(weight.dtype)
            return product, flat.sum(0).to(bias.dtype) if bias is not None and bias.requires_grad else None

        def accumulate() -> None:
            pairs = [
                (tensor, value) for tensor, value in zip((weight, bias), weights(), strict=True) if value is not None
            ]
            torch.autograd.backward([tensor for tensor, _ in pairs], [value for _, value in pairs])

        if ctx.waiting.put_off(accumulate):
            return input_gradient, None, None, None, None
        return (input_gradient, *weights(), None, None)


def _product(node: Node, graph_module: GraphModule) -> tuple[str, tuple[Any, ...]] | None:
    """The module that computes a node, and its arguments; None where the node stays."""
    if node.target is _LINEAR:
        x, weight, bias = (*node.args, None)[:3]
        name = "late_linear"
    elif node.target is _ADDMM and not node.kwargs:
        bias, x, weight = node.args
        name = "late_product"
    elif node.target in _PRODUCTS:
        (x, weight), bias, name = node.args, None, "late_product"
    else:
        return None
    if not isinstance(x, Node) or not _is_parameter(weight, graph_module, dims=2):
        return None
    if bias is not None and not _is_parameter(bias, graph_module, dims=1):
        return None
    return name, (x, weight, bias)


def _is_parameter(node: Any, graph_module: GraphModule, *, dims: int) -> bool:
    if not isinstance(node, Node) or node.op != "get_attr":
        return False
    tensor: Any = graph_module
    for part in str(node.target).split("."):
        tensor = getattr(tensor, part)
    return isinstance(tensor, nn.Parameter) and tensor.requires_grad and tensor.dim() == dims
