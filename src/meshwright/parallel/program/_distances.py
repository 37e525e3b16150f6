"""How far gradients are from those expected, found out while a backward makes them, so that they need not be kept."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Self

import torch
from torch import Tensor

# Numbers that are compared at once, in double precision.
_AT_ONCE = 2**20


class Distances:
    """Compares the gradients of one call of `torch.autograd.grad`; a context manager around it.

    A gradient that has been compared is exchanged for one zero of its shape. Sparse ones stay: they are small.

    Args:
        parameters: whose gradients come, by name.
        expected: gradients; each is let go of once it has been compared.
    """

    def __init__(self, parameters: Mapping[str, Tensor], expected: dict[str, Tensor | None]) -> None:
        self._expected = expected
        self._parameters = parameters
        self.squares: dict[str, float] = {}

    def take_rest(self, found: Mapping[str, Tensor | None]) -> None:
        """Compares what has not been: sparse gradients, and parameters without one."""
        for name in list(self._expected):
            self.squares[name] = squared_distance(found[name], self._expected.pop(name))

    def __enter__(self) -> Self:
        self._hooks = [tensor.register_hook(partial(self._take, name)) for name, tensor in self._parameters.items()]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _take(self, name: str, found: Tensor) -> Tensor | None:
        if found.is_sparse or name not in self._expected:
            return None
        self.squares[name] = squared_distance(found, self._expected.pop(name))
        return found.new_zeros(()).expand(found.shape)


def squared_norm(gradient: Tensor | None) -> float:
    """The sum of squares; 0 where there is no gradient."""
    return 0.0 if gradient is None else sum(float(piece.square().sum()) for piece in _pieces(gradient))


def squared_distance(one: Tensor | None, other: Tensor | None) -> float:
    """The squared norm of the difference; a gradient that is missing counts as zero."""
    if one is None or other is None:
        return squared_norm(other if one is None else one)
    pairs = zip(_pieces(one), _pieces(other), strict=True)
    return sum(float((piece - like).square().sum()) for piece, like in pairs)


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    """All numbers, so many at once that a copy of them in double precision is small."""
    dense = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
    for piece in dense.reshape(-1).split(_AT_ONCE):
        yield piece.to(torch.float64)
