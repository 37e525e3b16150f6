"""Which positions each worker computes the attention of."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from meshwright.parallel.tensor import Split
from meshwright.parallel.tensor._parts import part_of


class Arrangement(ABC):
    """Who has which positions during attention; tensors are `… l e`."""

    @abstractmethod
    def positions(self, coordinate: int) -> Tensor:
        """A worker's, ascending."""

    @abstractmethod
    def taken(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """These positions' rows, from everybody's rows of the positions that the rest of the program gives them."""

    @abstractmethod
    def returned(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """The other way round."""


class Unmoved(Arrangement):
    """As the rest of the program has them.

    Args:
        split: of the positions.
        degree: workers.
        length: of the whole sequence.
    """

    def __init__(self, split: Split, *, degree: int, length: int) -> None:
        self._split = Split(0, split.groups)
        self._degree = degree
        self._length = length

    def positions(self, coordinate: int) -> Tensor:
        """A part of the sequence."""
        return part_of(torch.arange(self._length), self._split, coordinate=coordinate, degree=self._degree)

    def taken(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """The same."""
        return tensors

    def returned(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """The same."""
        return tensors
