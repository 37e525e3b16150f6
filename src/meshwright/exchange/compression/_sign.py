"""One bit a value: its sign, with the mean absolute value of its block.

Source: Seide et al., "1-Bit Stochastic Gradient Descent", Interspeech 2014; blocks and momentum as in Zheng, Huang and
Kwok, "Communication-Efficient Distributed Blockwise Momentum SGD with Error-Feedback", NeurIPS 2019.
"""

import numpy as np
import torch
from torch import Tensor

from meshwright.exchange.compression._codec import Codec

ROWS = 128


class Signs(Codec):
    """Signs, eight to a byte, then the mean absolute value of each block in float32.

    Args:
        block: values with one scale, a multiple of 8.
    """

    def __init__(self, block: int) -> None:
        self._block = block

    @property
    def block(self) -> int:
        """Values with one scale."""
        return self._block

    def compress(self, values: Tensor, *, draw: int) -> Tensor:
        """Bits of all values, then the scales of all blocks."""
        del draw
        scales = torch.linalg.vector_norm(values.view(-1, self._block), 1, dim=1) / self._block
        return torch.cat([_packed(values >= 0), scales.view(torch.uint8)])

    def decompress(self, message: Tensor, into: Tensor, *, weight: float, draw: int) -> None:
        """Adds plus or minus the scale of its block to each value."""
        del draw
        cut = into.numel() // 8
        scales = message[cut:].clone().view(torch.float32) * weight
        rows = into.view(-1, self._block)
        bits = message[:cut].view(-1, self._block // 8)
        for part, scale, target in zip(bits.split(ROWS), scales.split(ROWS), rows.split(ROWS), strict=True):
            target.addcmul_(_unpacked(part).mul_(2).sub_(1), scale[:, None])

    def refine(self) -> bool:
        """Smaller blocks, down to 64 values."""
        if self._block <= 64:
            return False
        self._block //= 2
        return True


def _packed(bits: Tensor) -> Tensor:
    """Eight to a byte, the first in the highest bit."""
    if bits.device.type == "cpu":
        return torch.from_numpy(np.packbits(bits.numpy()))
    places = 2 ** torch.arange(7, -1, -1, device=bits.device)
    return (bits.view(-1, 8) * places).sum(dim=1).to(torch.uint8)


def _unpacked(rows: Tensor) -> Tensor:
    """Bits as numbers 0 and 1 in float32, row by row."""
    if rows.device.type == "cpu":
        return torch.from_numpy(np.unpackbits(rows.numpy(), axis=1)).float()
    places = torch.arange(7, -1, -1, device=rows.device, dtype=torch.uint8)
    return ((rows[:, :, None] >> places) & 1).flatten(1).float()
