"""Modules of equal structure: siblings that differ in nothing but the values of their parameters and their number."""

import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_NO_SETTINGS = {"_parameters", "_buffers", "_modules"}
_DEPTH = 4


def repeated_blocks(model: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Paths of equal modules, in groups of at least two.

    Only siblings with parameters and with modules inside of them count, and of those the outermost: a transformer's
    layers, a residual stage's blocks.
    """
    return tuple(_groups(model, ""))


def same_structure(one: nn.Module, other: nn.Module, numbers: tuple[int, int]) -> bool:
    """Whether two modules have the same classes, shapes and settings all the way down.

    Args:
        one: a module.
        other: another one.
        numbers: their places among their siblings; a setting that equals its module's place may differ.
    """
    if type(one) is not type(other) or isinstance(one, torch.jit.ScriptModule):
        return False
    if not _same_tensors(one._parameters, other._parameters) or not _same_tensors(one._buffers, other._buffers):
        return False
    if not _same_value(_settings(one), _settings(other), numbers, _DEPTH):
        return False
    if list(one._modules) != list(other._modules):
        return False
    return all(
        mine is theirs or (mine is not None and theirs is not None and same_structure(mine, theirs, numbers))
        for mine, theirs in zip(one._modules.values(), other._modules.values(), strict=True)
    )


def _groups(module: nn.Module, prefix: str) -> Iterator[tuple[str, ...]]:
    siblings = list(module.named_children())
    groups: list[list[int]] = []
    alone: list[int] = []
    for number, (_, child) in enumerate(siblings):
        if not list(child.children()) or next(child.parameters(), None) is None:
            continue
        for group in groups:
            if same_structure(siblings[group[0]][1], child, (group[0], number)):
                group.append(number)
                break
        else:
            groups.append([number])
    for group in groups:
        if len(group) == 1:
            alone += group
        else:
            yield tuple(prefix + siblings[number][0] for number in group)
    for number in sorted(alone):
        name, child = siblings[number]
        yield from _groups(child, f"{prefix}{name}.")


def _settings(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _NO_SETTINGS}


def _same_tensors(one: Mapping[str, Tensor | None], other: Mapping[str, Tensor | None]) -> bool:
    return list(one) == list(other) and all(map(_same_tensor, one.values(), other.values()))


def _same_tensor(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.shape, one.dtype, one.device, one.requires_grad) == (
        other.shape, other.dtype, other.device, other.requires_grad
    )  # fmt: skip


def _same_value(one: Any, other: Any, numbers: tuple[int, int], depth: int) -> bool:
    """Whether two settings are equal; objects that define no equality are compared by what they hold."""
    if one is other:
        return True
    if type(one) is not type(other) or depth == 0:
        return False
    if isinstance(one, Tensor):
        return _same_tensor(one, other)
    if isinstance(one, Mapping | list | tuple):
        return _same_items(one, other, numbers, depth)
    if type(one).__eq__ is not object.__eq__:
        return bool(one == other) or (type(one) is int and (one, other) == numbers)
    return _same_object(one, other, numbers, depth)


def _same_items(one: Any, other: Any, numbers: tuple[int, int], depth: int) -> bool:
    keys = list(one) if isinstance(one, Mapping) else list(range(len(one)))
    if keys != (list(other) if isinstance(other, Mapping) else list(range(len(other)))):
        return False
    return all(_same_value(one[key], other[key], numbers, depth - 1) for key in keys)


def _same_object(one: Any, other: Any, numbers: tuple[int, int], depth: int) -> bool:
    if isinstance(one, types.FunctionType) or not hasattr(one, "__dict__"):
        return False
    return _same_value(vars(one), vars(other), numbers, depth - 1)
