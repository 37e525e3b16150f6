"""The model's call alone, for a loop that somebody wrote by hand: outputs of any structure, and no loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from meshwright.errors import ProgramError

_CONSTANTS = (type(None), bool, int, float, str)


@dataclass(frozen=True, kw_only=True, slots=True)
class Structure:
    """How the tensors of an output hang together.

    Args:
        leaves: what is no tensor, in the places of all leaves.
        places: of the tensors among them.
        tree: torch's description of the rest.
    """

    leaves: tuple[Any, ...]
    places: tuple[int, ...]
    tree: Any

    def filled(self, tensors: Sequence[Any]) -> Any:
        """The output with these tensors."""
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        return pytree.tree_unflatten(leaves, self.tree)


class Forward:
    """Stands where a loss function is asked for; the batch is `(args, kwargs)` of the model's call.

    A program of it gives the outputs' tensors. Called as a loss, it gives a number in which every output has a part, so
    that a check of a program against its model sees all of them.
    """

    def __init__(self) -> None:
        self.structure: Structure | None = None

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """A number in which every output has a part."""
        return blended(self.outputs(model, batch))

    def outputs(self, model: nn.Module, batch: Any) -> tuple[Tensor, ...]:
        """The tensors that the model gives; `structure` says how they hang together.

        Raises:
            ProgramError: an output is neither a tensor nor a plain value.
        """
        args, kwargs = batch
        tensors, self.structure = taken_apart(model(*args, **kwargs), type(model).__name__)
        return tensors


def taken_apart(output: Any, model: str) -> tuple[tuple[Tensor, ...], Structure]:
    """An output's tensors, and the rest of it.

    Args:
        output: of any structure that torch knows: tuples, lists, dicts, outputs of `transformers`.
        model: name of the model's class.

    Raises:
        ProgramError: something in it is neither a tensor nor a plain value.
    """
    leaves, tree = pytree.tree_flatten(output)
    for leaf in leaves:
        if not isinstance(leaf, (Tensor, *_CONSTANTS)):
            raise ProgramError(
                f"{model} gives a {type(leaf).__name__} among its outputs",
                cause="outputs of several workers are put together from tensors and plain values",
                alternatives=["have the model give tensors only (use_cache=False leaves a cache out)"],
            )
    places = tuple(number for number, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
    others = tuple(None if isinstance(leaf, Tensor) else leaf for leaf in leaves)
    return tuple(leaves[place] for place in places), Structure(leaves=others, places=places, tree=tree)


def blended(outputs: Sequence[Tensor]) -> Tensor:
    """Σ over the outputs of the mean of o · cos(1, 2, 3, …): changes with every value of every output."""
    floating = [output for output in outputs if output.is_floating_point()]
    parts = []
    for output in floating:
        numbers = torch.arange(1, output.numel() + 1, device=output.device, dtype=output.dtype)
        parts.append((output.reshape(-1) * numbers.cos()).mean())
    return torch.stack([part.to(parts[0].dtype) for part in parts]).sum()
