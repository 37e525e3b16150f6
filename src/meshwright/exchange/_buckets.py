"""How gradients are grouped: buckets of one data type, in the order in which they are sent."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from meshwright.units import Bytes

# Vector instructions and cache lines: parameters begin at multiples of it.
ALIGNMENT: Bytes = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """Gradients that travel together, and after them one number per parameter: how many workers had a gradient.

    Args:
        members: numbers of the parameters.
        offsets: where each begins (elements).
        flags: where the numbers begin (elements).
        numel: length, padding included (elements).
        dtype: of the gradients.
        device: where they are.
        owner: the worker that keeps the sum; 0 where all do.
    """

    members: tuple[int, ...]
    offsets: tuple[int, ...]
    flags: int
    numel: int
    dtype: torch.dtype
    device: torch.device
    owner: int = 0

    def view(self, flat: Tensor, position: int, parameter: Tensor) -> Tensor:
        """A member's place in the bucket's memory, laid out like the parameter: fused optimizers rely on it."""
        part = flat[self.offsets[position] : self.offsets[position] + parameter.numel()]
        return part.as_strided(parameter.shape, parameter.stride()) if _is_dense(parameter) else part.view_as(parameter)


def group(
    parameters: Sequence[Tensor], order: Sequence[int], *, size: Bytes, owners: Sequence[int] | None = None
) -> tuple[Bucket, ...]:
    """Cuts the parameters, taken in an order, into buckets of about a size; one never spans two owners or data types.

    Args:
        parameters: all of them.
        order: their numbers, in the order in which gradients are expected.
        size: a bucket is closed once it is as large (B).
        owners: who keeps each parameter's sum; None: everybody.
    """
    open_members: dict[tuple[torch.dtype, torch.device, int], list[int]] = {}
    closed: list[Bucket] = []
    for index in order:
        parameter = parameters[index]
        key = (parameter.dtype, parameter.device, owners[index] if owners else 0)
        members = open_members.setdefault(key, [])
        members.append(index)
        if sum(parameters[member].nbytes for member in members) >= size:
            closed.append(_bucket(parameters, open_members.pop(key), owner=key[2]))
    closed.extend(_bucket(parameters, members, owner=key[2]) for key, members in open_members.items())
    return tuple(closed)


def _bucket(parameters: Sequence[Tensor], members: Sequence[int], *, owner: int) -> Bucket:
    first = parameters[members[0]]
    line = ALIGNMENT // first.itemsize
    offsets, end = [], 0
    for member in members:
        offsets.append(end)
        end += -(-parameters[member].numel() // line) * line
    return Bucket(
        members=tuple(members),
        offsets=tuple(offsets),
        flags=end,
        numel=end + -(-len(members) // line) * line,
        dtype=first.dtype,
        device=first.device,
        owner=owner,
    )


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill their memory without gaps or overlaps, in any order of dimensions."""
    expected = 1
    for stride, length in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True
