"""Gradients sent in 16 bits and summed in 32; nothing is carried over."""

import torch
from torch import Tensor

from meshwright.exchange._rounding import rounded, within
from meshwright.exchange._wire import Wire
from meshwright.exchange.compression._method import Method

# Values that are summed together: they stay in a second-level cache.
PIECE = 65536


class HalfSum(Method):
    """Rounds each worker's gradients to 16 bits, and sums what was rounded in float32.

    Two workers send each other everything, so the sum is rounded no second time. More send each other their n-th parts,
    and the sums of these rounded again. gloo's own sum of bfloat16 rounds after every addition.

    Args:
        dtype: that gradients travel in.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def sum(self, values: Tensor, wire: Wire, *, draw: int) -> None:
        """Makes the values the sum of the rounded ones."""
        del draw
        if wire.size == 2:
            first, second = (_read(message, self._dtype) for message in wire.gather(self._rounded(values)))
            for place, one, other in zip(values.split(PIECE), first.split(PIECE), second.split(PIECE), strict=True):
                place.copy_(one).add_(other)
            return
        share = -(-values.numel() // (wire.size * 64)) * 64
        padded = torch.zeros(wire.size * share, dtype=self._dtype, device=values.device)
        padded[: values.numel()] = within(values, self._dtype)
        received = wire.scatter(list(padded.view(torch.uint8).view(wire.size, -1)))
        own = torch.zeros(share, device=values.device)
        for message in received:
            own.add_(_read(message, self._dtype))
        whole = torch.cat(wire.gather(self._rounded(own)))
        values.copy_(_read(whole, self._dtype)[: values.numel()])

    def elements(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def factors(self) -> dict[int, Tensor]:
        """Nothing."""
        return {}

    def refine(self) -> bool:
        """It cannot."""
        return False

    def _rounded(self, values: Tensor) -> Tensor:
        return rounded(values, self._dtype).view(torch.uint8)


def _read(message: Tensor, dtype: torch.dtype) -> Tensor:
    return message.view(dtype)
