"""A batch of any shape: how many examples are in it, and the same batch with another number of examples."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
import torch

from meshwright.errors import BatchError

Leaf = Any
_MANY = 8


def batch_size(batch: Any) -> int:
    """How many examples a batch holds: the leading dim that its tensors share.

    Tensors and arrays inside of dicts, dict-likes (`BatchEncoding`), tuples, lists, named tuples and dataclasses
    count. Those without dims, and those with a leading dim of 1 beside larger ones (broadcast), do not.

    Raises:
        BatchError: no tensor, none with an example in it, or leading dims that disagree.
    """
    shapes = {path or "batch": tuple(leaf.shape) for path, leaf in leaves(batch) if _is_array(leaf) and leaf.ndim > 0}
    if not shapes:
        raise BatchError(
            f"the batch ({type(batch).__name__}) holds no tensor with a dim for its examples",
            cause="the number of examples is read from the leading dim of its tensors",
            alternatives=["give a tensor, or a dict, tuple, list or dataclass of tensors, examples first"],
        )
    varying = {shape[0] for shape in shapes.values()} - {1}
    if varying == {0}:
        raise BatchError(
            f"a batch of size 0: {_listed(shapes)}",
            cause="the leading dim of its tensors is 0",
            alternatives=["leave empty batches out in the loader"],
        )
    if len(varying) > 1:
        raise BatchError(
            f"the batch's tensors disagree about the number of examples: {_listed(shapes)}",
            cause="every tensor of a batch is split along its leading dim",
            alternatives=[
                "put the examples first in every tensor",
                "keep what belongs to no example (weights, a mask for all) in the model or in the loss",
            ],
        )
    return varying.pop() if varying else 1


def resized(batch: Any, examples: int) -> Any:
    """The same batch with another number of examples: its first ones, or all of them over again."""
    size = batch_size(batch)
    return mapped(batch, lambda leaf: _resized_leaf(leaf, size, examples))


def batch_bytes(batch: Any) -> int:
    """Size of all tensors and arrays of a batch (B)."""
    return sum(int(leaf.nbytes) for _, leaf in leaves(batch) if _is_array(leaf))


def leaves(batch: Any, path: str = "") -> Iterator[tuple[str, Leaf]]:
    """Every tensor and every other value of a batch with its path (`labels`, `0.mask`)."""
    children = _children(batch)
    if children is None:
        yield path, batch
        return
    for key, child in children:
        yield from leaves(child, f"{path}.{key}" if path else str(key))


def mapped(batch: Any, function: Callable[[Leaf], Leaf]) -> Any:
    """The same structure with `function` applied to each leaf; lists without tensors are leaves themselves."""
    children = _children(batch)
    if children is None:
        return function(batch)
    new = [(key, mapped(child, function)) for key, child in children]
    if isinstance(batch, Mapping):
        return _rebuilt_mapping(batch, new)
    values = [value for _, value in new]
    if isinstance(batch, tuple):
        return type(batch)(*values) if hasattr(batch, "_fields") else type(batch)(values)
    if isinstance(batch, list):
        return values
    replica = copy.copy(batch)
    for name, value in new:
        object.__setattr__(replica, name, value)
    return replica


def _children(value: Any) -> list[tuple[Any, Any]] | None:
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, tuple | list):
        holds_arrays = any(_is_array(leaf) for item in value for _, leaf in leaves(item))
        return list(enumerate(value)) if holds_arrays else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return None


def _rebuilt_mapping(mapping: Mapping[Any, Any], items: list[tuple[Any, Any]]) -> Mapping[Any, Any]:
    if not isinstance(mapping, MutableMapping):
        return dict(items)
    replica = copy.copy(mapping)
    for key, value in items:
        replica[key] = value
    return replica


def _resized_leaf(leaf: Leaf, size: int, examples: int) -> Leaf:
    times = -(-examples // size)
    if isinstance(leaf, torch.Tensor):
        if leaf.ndim == 0 or leaf.shape[0] != size:
            return leaf
        longer = torch.cat([leaf] * times) if times > 1 else leaf
        return longer[:examples].detach().requires_grad_(leaf.requires_grad)
    if isinstance(leaf, np.ndarray):
        if leaf.ndim == 0 or leaf.shape[0] != size:
            return leaf
        return np.concatenate([leaf] * times)[:examples]
    if isinstance(leaf, list | tuple) and len(leaf) == size:
        return (leaf * times)[:examples]
    return leaf


def _is_array(leaf: Leaf) -> bool:
    return isinstance(leaf, torch.Tensor | np.ndarray)


def _listed(shapes: dict[str, tuple[int, ...]]) -> str:
    named = [f"{path} {list(shape)}" for path, shape in shapes.items()]
    return ", ".join(named[:_MANY]) + (f" and {len(named) - _MANY} more" if len(named) > _MANY else "")
