"""Sums of rounded gradients over the direct transport: half the bytes of the exact sum, on the same path."""

from collections.abc import Callable

import torch
from torch import Tensor

from meshwright.exchange._reduction import ExactReduction
from meshwright.exchange._transport import Transfer
from meshwright.exchange.direct import DirectTransport


class RoundedReduction(ExactReduction):
    """Gradients that travel in 16 bits and are summed in 32; nothing is carried over.

    How many workers had a gradient travels rounded too: what counts is whether anybody had one, which no rounding
    changes.

    Args:
        transport: carries the buckets.
        dtype: that they travel in.
    """

    def __init__(self, transport: DirectTransport, dtype: torch.dtype) -> None:
        super().__init__(transport)
        self._direct = transport
        self._dtype = dtype

    def start(self, number: int, flat: Tensor) -> Transfer:
        """An all-reduce of rounded values."""
        if self._exactness.holds:
            return super().start(number, flat)
        return self._direct.sum_rounded(flat, self._dtype)

    def start_at(self, number: int, flat: Tensor, *, root: int, receive: Callable[[Tensor], object]) -> Transfer:
        """A reduce of rounded values."""
        if self._exactness.holds:
            return super().start_at(number, flat, root=root, receive=receive)
        return self._direct.collect_rounded(flat, self._dtype, root=root, receive=receive)
