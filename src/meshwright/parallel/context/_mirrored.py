"""Balanced halves: of a causal sequence each worker takes one part from the front and its mirror image from the back.

A query sees what is before it, so the worker with the end of a sequence would compute most: of $n$ workers with
consecutive parts the last one $n - 1/2$ blocks of scores, the first one half a block. Of $2n$ parts the $c$-th and the
$c$-th from the end have together $n/2$ blocks for every $c$. The parts change hands where attention begins and ends;
all other operations keep consecutive positions.

Source: Grattafiori et al., The Llama 3 Herd of Models (2024), section 3.3.2 (parallelism for long contexts).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from meshwright.parallel.context._arrangement import Arrangement
from meshwright.parallel.tensor import Communicator

_POSITIONS = -2


class Mirrored(Arrangement):
    """Hands the halves of tensors' positions to the workers that compute with them, and back.

    Args:
        communicator: of the axis.
        length: of the whole sequence, of which each worker has consecutive positions; two equal parts for each.
    """

    def __init__(self, communicator: Communicator, *, length: int) -> None:
        self._communicator = communicator
        self._half = length // (2 * communicator.size)
        self._last = 2 * communicator.size - 1

    def positions(self, coordinate: int) -> Tensor:
        """Those of a part and of its mirror image."""
        parts = (coordinate, self._last - coordinate)
        return torch.cat([torch.arange(part * self._half, (part + 1) * self._half) for part in parts])

    def taken(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Mirrored positions from everybody's consecutive ones."""
        return self._moved(tensors, before=_consecutive, after=self._owner)

    def returned(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Consecutive positions from everybody's mirrored ones."""
        return self._moved(tensors, before=self._owner, after=_consecutive)

    def _owner(self, part: int) -> int:
        return min(part, self._last - part)

    def _moved(
        self, tensors: Sequence[Tensor], *, before: Callable[[int], int], after: Callable[[int], int]
    ) -> list[Tensor]:
        """Parts from those that have them before to those that have them after."""
        own, size = self._communicator.coordinate, self._communicator.size
        counts = [[0] * size for _ in range(size)]
        for part in range(2 * size):
            counts[before(part)][after(part)] += 1
        held = [part for part in range(2 * size) if before(part) == own]
        wanted = [part for part in range(2 * size) if after(part) == own]
        leaving, arriving = sorted(held, key=after), sorted(wanted, key=before)
        widths = [tensor.numel() // 2 for tensor in tensors]
        packet = tensors[0].new_empty((2, sum(widths)))
        for row, part in zip(packet, leaving, strict=True):
            for place, tensor in zip(row.split(widths), tensors, strict=True):
                half = _half(tensor, held.index(part))
                place.view(half.shape).copy_(half)
        received = self._communicator.travel(packet, counts)
        moved = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in tensors]
        for row, part in zip(received, arriving, strict=True):
            for place, tensor in zip(row.split(widths), moved, strict=True):
                half = _half(tensor, wanted.index(part))
                half.copy_(place.view(half.shape))
        return moved


def _half(tensor: Tensor, number: int) -> Tensor:
    length = tensor.shape[_POSITIONS] // 2
    return tensor.narrow(_POSITIONS, number * length, length)


def _consecutive(part: int) -> int:
    return part // 2
