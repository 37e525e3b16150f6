"""What a block is called with and what it gives back, without values: what two instances must share to be one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from meshwright.graph.capture_lifetimes import storage_key


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """A tensor without its values."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    requires_grad: bool

    @staticmethod
    def of(tensor: Tensor) -> "TensorSpec":
        """The specification of a tensor."""
        return TensorSpec(
            shape=tuple(tensor.shape),
            stride=tensor.stride(),
            dtype=tensor.dtype,
            device=tensor.device,
            requires_grad=tensor.requires_grad,
        )

    def empty(self) -> Tensor:
        """A tensor like it."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)


@dataclass(frozen=True, kw_only=True, slots=True)
class InputAgain:
    """An output that is one of the inputs."""

    number: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Inputs:
    """What a block is called with.

    Args:
        group: number of its group of equal modules.
        structure: of its arguments.
        leaves: its arguments without their structure.
        needed: what has to be equal for a replay: a `TensorSpec` or the value itself for each leaf, and the modes.
    """

    group: int
    structure: Any
    leaves: tuple[Any, ...]
    needed: tuple[Any, ...]

    @staticmethod
    def of(group: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "Inputs":
        """The inputs of a call."""
        leaves, structure = pytree.tree_flatten((args, kwargs), is_leaf=_is_leaf)
        needed = (TensorSpec.of(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        modes = (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda"))
        return Inputs(group=group, structure=structure, leaves=tuple(leaves), needed=(*needed, *modes))

    def without_tensors(self) -> "Inputs":
        """The same without holding on to its tensors."""
        return replace(self, leaves=())

    def allow(self, other: "Inputs") -> bool:
        """Whether a block that was captured with these can be replayed with the other ones.

        Tensors are equal by shape, plain values by value, all others (a cache that is handed through) by identity.
        """
        plain = (TensorSpec, bool, int, float, str, torch.dtype, torch.device)
        if self.group != other.group or self.structure != other.structure or len(self.needed) != len(other.needed):
            return False
        return all(
            mine is theirs or (type(mine) is type(theirs) and isinstance(mine, plain) and mine == theirs)
            for mine, theirs in zip(self.needed, other.needed, strict=True)
        )


def output_specs(outputs: list[Any], leaves: Sequence[Any]) -> tuple[Any, ...] | None:
    """What each output is; None where a replay could not make it (a view of an input, an object of its own)."""
    inputs = [(index, leaf) for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    known = {storage_key(leaf) for _, leaf in inputs}
    specs: list[Any] = []
    for output in outputs:
        again = next((index for index, leaf in enumerate(leaves) if leaf is output), None)
        if again is not None:
            specs.append(InputAgain(number=again))
        elif isinstance(output, Tensor):
            if storage_key(output) in known:
                return None
            known.add(storage_key(output))
            specs.append(TensorSpec.of(output))
        elif output is None or isinstance(output, bool | int | float | str):
            specs.append(output)
        else:
            return None
    return tuple(specs)


def _is_leaf(value: Any) -> bool:
    return type(value) not in (tuple, list, dict)
