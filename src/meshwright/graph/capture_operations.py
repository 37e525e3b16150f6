"""What one call of one aten operation costs: FLOP, bytes read and written, kind, and the shape of its product."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from meshwright.graph._graph import OperationKind

_ALLOCATIONS = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "set_", "resize_"}
_FILLS = {
    "zeros", "zeros_like", "ones", "ones_like", "full", "full_like", "new_zeros", "new_ones", "new_full",
    "fill_", "zero_", "arange", "scalar_tensor", "eye", "tril_indices", "linspace",
}  # fmt: skip
_COPIES = {
    "clone", "copy_", "_to_copy", "cat", "stack", "constant_pad_nd", "repeat", "repeat_interleave", "roll", "flip",
    "slice_scatter", "select_scatter", "as_strided_scatter", "slice_backward", "select_backward",
    "unfold_backward", "im2col", "col2im", "tril", "triu", "tril_", "triu_", "pixel_shuffle", "copy",
    "reflection_pad1d", "reflection_pad2d", "replication_pad2d",
}  # fmt: skip
_GATHERS = {
    "embedding",
    "gather",
    "index",
    "index_select",
    "take",
    "take_along_dim",
    "nll_loss_forward",
    "_embedding_bag",
}
_SCATTERS = {
    "embedding_dense_backward", "index_put_", "index_put", "_index_put_impl_", "scatter", "scatter_", "scatter_add",
    "scatter_add_", "index_add", "index_add_", "index_copy", "index_copy_", "nll_loss_backward", "nonzero",
    "max_pool2d_with_indices_backward", "masked_select", "scatter_reduce", "masked_scatter",
    "_embedding_bag_dense_backward", "sort", "topk", "argsort", "searchsorted", "bucketize",
}  # fmt: skip
_NORMALIZATIONS = (
    "layer_norm", "batch_norm", "group_norm", "rms_norm", "_softmax", "_log_softmax", "_safe_softmax",
    "instance_norm", "_weight_norm_interface",
)  # fmt: skip
_REDUCTIONS = (
    "sum", "mean", "amax", "amin", "max", "min", "argmax", "argmin", "norm", "prod", "logsumexp", "logcumsumexp",
    "cumsum", "cumprod", "any", "all", "_loss", "avg_pool", "max_pool", "adaptive", "upsample", "var", "std", "nansum",
    "_local_scalar_dense",
)  # fmt: skip
_TRANSCENDENTALS = {
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "tanh", "sinh", "cosh", "sigmoid",
    "silu", "silu_backward", "gelu", "gelu_backward", "mish", "mish_backward", "erf", "erfc", "erfinv", "softplus",
    "softplus_backward", "pow", "atan", "atan2", "asin", "acos", "logit", "log_sigmoid_forward", "log_sigmoid_backward",
    "elu", "celu", "selu", "_thnn_fused_lstm_cell", "_thnn_fused_gru_cell", "logaddexp", "xlogy", "i0", "lgamma",
}  # fmt: skip
_MATRICES = {"mm", "addmm", "bmm", "baddbmm", "_grouped_mm", "_scaled_mm", "addmv", "mv", "dot", "addbmm", "_int_mm"}
_VIEWS = {"_unsafe_view", "_reshape_alias", "lift", "lift_fresh", "_nested_view_from_buffer"}


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationClass:
    """What is known of an operation before its arguments are.

    Args:
        name: torch's name (`aten.addmm`).
        mutated: positions of the arguments that it writes to.
        mutated_names: names of those that are keyword-only (`out`).
    """

    name: str
    kind: OperationKind
    mutated: tuple[int, ...]
    mutated_names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationCost:
    """One call at one batch size.

    Args:
        matrix: batch, rows, inner, columns of its product; of attention, of queries by keys.
    """

    dtype: str
    flops: float
    bytes_read: float
    bytes_written: float
    matrix: tuple[float, float, float, float] | None


def classify(func: OpOverload) -> OperationClass:
    """Name, kind and mutated arguments of an operation."""
    arguments = func._schema.arguments
    writes = [argument.alias_info is not None and argument.alias_info.is_write for argument in arguments]
    return OperationClass(
        name=f"{func.namespace}.{func._schema.name.split('::')[1]}",
        kind=_kind(func),
        mutated=tuple(position for position, write in enumerate(writes) if write),
        mutated_names=tuple(argument.name for argument, write in zip(arguments, writes, strict=True) if write),
    )


def as_called(known: OperationClass, kwargs: dict[str, Any]) -> OperationClass:
    """What is known of one call: a GELU by tanh has a name of its own, since on processors it is far slower."""
    by_tanh = "gelu" in known.name and kwargs.get("approximate") == "tanh"
    return replace(known, name=f"{known.name}_tanh") if by_tanh else known


def cost(
    func: OpOverload, known: OperationClass, args: Sequence[Any], kwargs: dict[str, Any], out: Any
) -> OperationCost:
    """What one call costs.

    A tensor is read or written once, wherever it is touched; dims that are broadcast without a copy (stride 0) count
    as one element. A gather reads what it returns and its indices, not its whole table.
    """
    name = func._schema.name.split("::")[1]
    inputs = list(tensors(args)) + list(tensors(kwargs.values()))
    outputs = list(tensors((out,)))
    if known.kind == "view" or name in _ALLOCATIONS:
        read = written = 0.0
    else:
        mutated = _mutated(known, args, kwargs)
        fresh = [tensor for tensor in outputs if not any(tensor is other for other in mutated)]
        written = sum(map(touched, fresh)) + sum(map(touched, mutated))
        read = _bytes_read(name, inputs, written)
    return OperationCost(
        dtype=str((outputs or inputs)[0].dtype).removeprefix("torch.") if outputs or inputs else "",
        flops=float(_flops(func, name, args, kwargs, out)),
        bytes_read=float(read),
        bytes_written=float(written),
        matrix=_shape(known.kind, name, inputs),
    )


def tensors(values: Any) -> Iterator[Tensor]:
    """The tensors among arguments and lists of arguments."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from tensors(value)


def touched(tensor: Tensor) -> int:
    """Bytes behind a tensor, broadcast dims counted once."""
    if tensor.layout != torch.strided:
        return int(tensor.numel()) * tensor.element_size()
    extents = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride != 0 or size == 0)
    return int(prod(extents)) * tensor.element_size()


def _kind(func: OpOverload) -> OperationKind:
    name = func._schema.name.split("::")[1]
    base = name.removesuffix("_")
    if func.is_view or name in _VIEWS:
        return "view"
    tables: tuple[tuple[OperationKind, bool], ...] = (
        ("matrix", name in _MATRICES),
        ("attention", "attention" in name),
        ("convolution", "convolution" in name or "conv2d" in name or "conv3d" in name),
        ("recurrent", "_rnn" in name or "rnn_layer" in name),
        ("random", torch.Tag.nondeterministic_seeded in func.tags),
        ("other", name in _ALLOCATIONS),
        ("copy", name in _COPIES or name in _FILLS),
        ("indexing", name in _GATHERS or name in _SCATTERS),
        ("normalization", any(part in name for part in _NORMALIZATIONS)),
        ("transcendental", base in _TRANSCENDENTALS),
        ("pointwise", torch.Tag.pointwise in func.tags),
        ("reduction", torch.Tag.reduction in func.tags or any(part in name for part in _REDUCTIONS)),
        ("pointwise", "_backward" in name),
    )
    return next((kind for kind, holds in tables if holds), "other")


def _mutated(known: OperationClass, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    values = [args[position] for position in known.mutated if position < len(args)]
    values += [kwargs[name] for name in known.mutated_names if name in kwargs]
    return list(tensors(values))


def _bytes_read(name: str, inputs: list[Tensor], written: float) -> float:
    if name in _FILLS:
        return 0.0
    if name == "copy_":
        return touched(inputs[1])
    if name in _GATHERS:
        return sum(map(touched, inputs[1:])) + written
    if name in {"index_put_", "index_put", "_index_put_impl_", "scatter_", "scatter_add_", "index_add_", "index_copy_"}:
        return 2 * sum(map(touched, inputs[1:]))
    return sum(map(touched, inputs))


def _flops(func: OpOverload, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> float:
    """FLOP by torch's own counter, and by the same rules for the kernels that it leaves out."""
    formula = flop_registry.get(func.overloadpacket)
    if formula is not None:
        return formula(*args, **kwargs, out_val=out)
    own = _FORMULAS.get(name.removesuffix("_backward"))
    if own is None:
        return 0.0
    return own(args, "backward" in name)


def _attention_flops(args: Sequence[Any], backward: bool) -> float:
    shapes = [tensor.shape for tensor in args[: 4 if backward else 3]]
    return sdpa_backward_flop_count(*shapes) if backward else sdpa_flop_count(*shapes)


def _layer_flops(args: Sequence[Any], backward: bool) -> float:
    """oneDNN's recurrent layer: both of its matrices times every step of every sequence; twice that backwards."""
    once = 2.0 * prod(args[0].shape[:2]) * (args[1].numel() + args[2].numel())
    return 2 * once if backward else once


def _recurrent_flops(args: Sequence[Any], backward: bool) -> float:
    """cuDNN's whole network: all of its matrices times every step of every sequence; twice that backwards."""
    once = 2.0 * prod(args[0].shape[:2]) * sum(weight.numel() for weight in args[1] if weight.ndim == 2)
    return 2 * once if backward else once


def _grouped_flops(args: Sequence[Any], backward: bool) -> float:
    """`rows inner` times `inner columns`, whichever of the three dims is cut into groups."""
    del backward
    left, right = args[0], args[1]
    return 2.0 * min(left.numel() * right.shape[-1], right.numel() * left.shape[-2])


def _vector_flops(args: Sequence[Any], backward: bool) -> float:
    del backward
    return 2.0 * max(tensor.numel() for tensor in tensors(args))


_FORMULAS = {
    "_scaled_dot_product_flash_attention_for_cpu": _attention_flops,
    "mkldnn_rnn_layer": _layer_flops,
    "_cudnn_rnn": _recurrent_flops,
    "_grouped_mm": _grouped_flops,
    "mv": _vector_flops,
    "addmv": _vector_flops,
    "dot": _vector_flops,
}


def _shape(kind: OperationKind, name: str, inputs: list[Tensor]) -> tuple[float, float, float, float] | None:
    if kind == "matrix":
        return _matrix(name, inputs)
    return _attention(name, inputs) if kind == "attention" else None


def _attention(name: str, inputs: list[Tensor]) -> tuple[float, float, float, float] | None:
    """Queries by keys: heads of all examples, sequence, width of a head, sequence of the keys."""
    query, key = inputs[1:3] if "_backward" in name else inputs[:2]
    if query.ndim != 4 or key.ndim != 4:
        return None
    return float(query.shape[0] * query.shape[1]), float(query.shape[2]), float(query.shape[3]), float(key.shape[2])


def _grouped(inputs: list[Tensor]) -> tuple[float, float, float, float]:
    """Groups, rows, inner, columns of each; the dim that is cut into groups, if any, has its mean size."""
    left, right = inputs[:2]
    groups = next((side.shape[0] for side in (left, right) if side.ndim == 3), None) or inputs[2].shape[0]
    rows, inner, columns = float(left.shape[-2]), float(left.shape[-1]), float(right.shape[-1])
    if left.ndim == right.ndim == 2:
        inner /= groups
    elif right.ndim == 3 and left.ndim == 2:
        rows /= groups
    elif left.ndim == 3 and right.ndim == 2:
        columns /= groups
    return float(groups), rows, inner, columns


def _matrix(name: str, inputs: list[Tensor]) -> tuple[float, float, float, float] | None:
    if name == "_grouped_mm":
        return _grouped(inputs)
    left, right = inputs[1:3] if name.startswith("add") or name == "baddbmm" else inputs[:2]
    batch = left.shape[0] if left.ndim == 3 else 1
    rows = left.shape[-2] if left.ndim > 1 else 1
    columns = right.shape[-1] if right.ndim > 1 else 1
    return float(batch), float(rows), float(left.shape[-1]), float(columns)
