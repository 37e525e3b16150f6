r"""Each matrix of gradients as a product of two factors of low rank.

One power iteration from the last step's factor: $P = M Q$, summed over the workers and made orthonormal;
$Q = M^T P$, summed; the sum of the gradients is about $P Q^T$. Each worker carries over $M - P P^T M$, which it did
not send. Exact where the rank reaches that of the summed matrix and its rows are what they were a step ago.

Source: Vogels, Karimireddy and Jaggi, "PowerSGD", NeurIPS 2019.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from meshwright.exchange._wire import Wire
from meshwright.exchange.compression._method import Method


@dataclass(slots=True)
class _Matrix:
    """A parameter that is sent as factors: its place in the bucket, its shape, and the factor of the last step."""

    position: int
    start: int
    rows: int
    columns: int
    factor: Tensor

    def of(self, flat: Tensor) -> Tensor:
        return flat[self.start : self.start + self.rows * self.columns].view(self.rows, self.columns)


class PowerSum(Method):
    """Factors of matrices, in two sums; all other parameters whole, with the first.

    Args:
        shapes: of the parameters as they lie in memory, in the order of the bucket.
        offsets: where each begins.
        numel: length of the bucket's gradients.
        rank: of the factors.
        device: where the gradients are.
    """

    def __init__(
        self,
        shapes: Sequence[Sequence[int]],
        offsets: Sequence[int],
        numel: int,
        *,
        rank: int,
        device: torch.device,
    ) -> None:
        self._rank = rank
        self._carried = torch.zeros(numel, device=device)
        self._matrices: list[_Matrix] = []
        self._whole: list[tuple[int, int]] = []
        for position, (shape, start) in enumerate(zip(shapes, offsets, strict=True)):
            rows = shape[0] if shape else 1
            columns = prod(shape) // max(1, rows)
            if len(shape) > 1 and (rows + columns) * min(rank, rows, columns) < rows * columns:
                factor = _drawn(columns, min(rank, rows), seed=start + position, device=device)
                self._matrices.append(_Matrix(position, start, rows, columns, factor))
            else:
                self._whole.append((start, start + prod(shape)))

    def sum(self, values: Tensor, wire: Wire, *, draw: int) -> None:
        """Makes the values the products of the summed factors."""
        self._carried.add_(values)
        left = [matrix.of(self._carried) @ matrix.factor for matrix in self._matrices]
        whole = [self._carried[start:stop] for start, stop in self._whole]
        message = _joined([*left, *whole], self._carried)
        wire.sum(message)
        summed = _parted(message, [*left, *whole])
        left = [torch.linalg.qr(item).Q for item in summed[: len(left)]]
        right = [matrix.of(self._carried).T @ item for matrix, item in zip(self._matrices, left, strict=True)]
        values.zero_()
        for (start, stop), item in zip(self._whole, summed[len(left) :], strict=True):
            values[start:stop] = item
            self._carried[start:stop] = 0.0
        for matrix, first, second in zip(self._matrices, left, right, strict=True):
            matrix.of(self._carried).addmm_(first, second.T, alpha=-1.0)
        message = _joined(right, self._carried)
        wire.sum(message)
        for matrix, first, second in zip(self._matrices, left, _parted(message, right), strict=True):
            matrix.of(values).copy_(first @ second.T)
            matrix.factor = second.clone()
        self._renew_dead_factors(draw)

    def elements(self) -> dict[str, Tensor]:
        """What is carried over."""
        return {"carried": self._carried}

    def factors(self) -> dict[int, Tensor]:
        """The factor that the next step begins with."""
        return {matrix.position: matrix.factor for matrix in self._matrices}

    def refine(self) -> bool:
        """Twice the rank; a matrix's rank ends where its factors are no smaller than itself."""
        refined = False
        for matrix in self._matrices:
            now = matrix.factor.shape[1]
            most = matrix.rows * matrix.columns // (matrix.rows + matrix.columns)
            more = min(2 * now, most) - now
            if more > 0:
                fresh = _drawn(matrix.columns, more, seed=now + matrix.start, device=matrix.factor.device)
                matrix.factor = torch.cat([matrix.factor, fresh], dim=1)
                refined = True
        return refined

    def _renew_dead_factors(self, draw: int) -> None:
        """A matrix without gradients leaves a factor of zeros, from which nothing could be found again."""
        for matrix in self._matrices:
            if not bool(matrix.factor.any()):
                columns, rank = matrix.factor.shape
                seed = draw + matrix.start + matrix.position
                matrix.factor = _drawn(columns, rank, seed=seed, device=matrix.factor.device)


def _drawn(rows: int, columns: int, *, seed: int, device: torch.device) -> Tensor:
    """A factor to begin with, the same on every worker."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).to(device)


def _joined(tensors: Sequence[Tensor], like: Tensor) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors]) if tensors else like.new_zeros(0)


def _parted(message: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = message.split([tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]
