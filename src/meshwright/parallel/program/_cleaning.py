"""What an export leaves in a graph that computes nothing: assertions, no-op casts, copies of constants, dead code."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

_aten = torch.ops.aten
_ASSERTIONS = (
    _aten._assert_tensor_metadata.default,
    _aten._assert_async.default,
    _aten._assert_async.msg,
    _aten._assert_scalar.default,
    _aten.sym_constrain_range.default,
    _aten.sym_constrain_range_for_size.default,
)
_DROPOUTS = (_aten.dropout.default, _aten.feature_dropout.default, _aten.alpha_dropout.default)
_DETACHES = (_aten.detach.default, _aten.detach_.default)
_ALIASES = (_aten.alias.default, _aten.lift_fresh.default)


def clean(graph: Graph) -> None:
    """Removes what computes nothing, in place."""
    for node in list(graph.nodes):
        if node.target in _ASSERTIONS:
            graph.erase_node(node)
            continue
        source = _same_as(node)
        if source is not None:
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    graph.eliminate_dead_code()
    graph.lint()


def _same_as(node: Node) -> Node | None:
    """The node whose value an operation gives back unchanged."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], Node):
        return None
    source = node.args[0]
    return source if node.target in _ALIASES or _changes_nothing(node, source) else None


def _changes_nothing(node: Node, source: Node) -> bool:
    """Whether this call of an operation gives back its first argument."""
    if node.target in _DROPOUTS:
        return not bool(node.args[1]) or not node.args[2]
    if node.target is _aten.lift_fresh_copy.default:
        return not _is_written(node)
    if node.target is _aten.to.dtype and not any(node.args[3:]):
        return _value(source).dtype == node.args[1] and not _is_written(node)
    return node.target in _DETACHES and _needs_no_gradient(source)


def _is_written(node: Node) -> bool:
    """Whether an operation may write to a node's memory, or to a view of it."""
    for user in node.users:
        schema = getattr(user.target, "_schema", None)
        if schema is None or schema.is_mutable or any(result.alias_info is not None for result in schema.returns):
            return user.target not in _DETACHES or _is_written(user)
    return False


def _needs_no_gradient(node: Node) -> bool:
    value = _value(node)
    if isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex()):
        return True
    return node.target is _aten.lift_fresh_copy.default or (
        node.op == "get_attr" and str(node.target).startswith("constant_")
    )


def _value(node: Node) -> Any:
    return node.meta.get("val")
