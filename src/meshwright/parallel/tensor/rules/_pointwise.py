"""Operations on each element by itself, dropout included."""

import torch
from torch.fx import Node

from meshwright.parallel.tensor._operation import Operation
from meshwright.parallel.tensor.rules._rule import LetterRule, Letters, broadcast

_LINEAR_IN_FIRST = {
    "neg", "clone", "contiguous", "alias", "to", "_to_copy", "detach", "dropout", "native_dropout", "feature_dropout",
    "lift_fresh_copy", "type_as", "div", "mul", "masked_fill", "positive", "float", "double", "half", "bfloat16",
}  # fmt: skip
_LINEAR_IN_BOTH = {"add", "sub"}
_LINEAR_IN_SECOND = {"mul"}
# Elementwise, but not tagged so by torch.
_UNTAGGED = {
    "alias", "clone", "contiguous", "to", "_to_copy", "detach", "dropout", "native_dropout", "feature_dropout",
    "lift_fresh_copy", "type_as", "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like",
    "bernoulli", "where", "masked_fill", "dropout_", "copy", "_safe_softplus", "expand_as", "addcmul", "addcdiv",
    "lerp", "nan_to_num", "float_power", "relu6", "hardtanh", "clamp", "_conj", "resolve_conj", "resolve_neg", "selu",
    "celu", "silu", "prelu_kernel", "square", "rsub", "true_divide", "bitwise_not", "logical_not", "log_sigmoid",
    "softplus", "hardswish", "hardsigmoid", "mish", "gelu", "_weight_norm_differentiable_backward",
    "one_hot_like", "fill", "rrelu", "pow", "special_expit", "glu_like",
}  # fmt: skip
FACTORY_LIKE = {"zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"}


class Pointwise(LetterRule):
    """Every dim of the result can be split; stretched operands stay whole."""

    def letters(self, operation: Operation) -> Letters | None:
        """Broadcast dims."""
        if not operation.results:
            return None
        name = operation.name.removeprefix("aten.")
        if any(_empties(shape) and not _empties(operation.results[0]) for shape in operation.shapes):
            return None
        operands = broadcast(operation.shapes, operation.results[0])
        results = broadcast(operation.results, operation.results[0])
        return Letters(operands=tuple(operands), results=tuple(results), linear=tuple(_linear(operation, name)))


def is_pointwise(node: Node) -> bool:
    """Whether an operation works on each element by itself."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    return torch.Tag.pointwise in target.tags or target._schema.name.split("::")[1] in _UNTAGGED


def _linear(operation: Operation, name: str) -> list[frozenset[int]]:
    """Which operands may hold partial sums together."""
    places = operation.places
    floating = [operand.meta["val"].dtype.is_floating_point for operand in operation.operands]
    floating_result = operation.node.meta["val"] if len(operation.results) == 1 else None
    if floating_result is None or not floating_result.dtype.is_floating_point:
        return []
    found = []
    if name in _LINEAR_IN_BOTH and len(places) == 2 and all(floating):
        found.append(frozenset((0, 1)))
    if name in _LINEAR_IN_FIRST and floating and floating[0]:
        fills = name == "masked_fill" and operation.argument("value") != 0
        rounds = name == "div" and operation.argument("rounding_mode") is not None
        if not (fills or rounds or (name == "masked_fill" and "value" in places)):
            found.append(frozenset((0,)))
    if name in _LINEAR_IN_SECOND and len(floating) == 2 and floating[1]:
        found.append(frozenset((1,)))
    if name == "where" and len(floating) == 3 and floating[1] and floating[2]:
        found.append(frozenset((1, 2)))
    return found


def _empties(shape: tuple[int, ...]) -> bool:
    return 0 in shape
