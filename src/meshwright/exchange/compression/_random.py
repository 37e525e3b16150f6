"""Some values, at positions that every worker draws alike, so that none has to be sent."""

from math import ceil, gcd

import torch
from torch import Tensor

from meshwright.exchange.compression._codec import Codec

# Values that are drawn together: a cache line.
RUN = 16


class Drawn(Codec):
    """Runs of values in bfloat16.

    Of n runs those numbered (a i + b) mod n are drawn, for i below their wanted number, with b any number below n and a
    one that has no divisor in common with n: each run is drawn equally often, and none twice in a step.

    Args:
        share: of the values that are sent (0 to 1).
        block: the number of values is a multiple of it, and it is one of `RUN`.
    """

    def __init__(self, share: float, *, block: int) -> None:
        self._share = share
        self._block = block

    @property
    def block(self) -> int:
        """The number of values is a multiple of it."""
        return self._block

    def compress(self, values: Tensor, *, draw: int) -> Tensor:
        """The drawn runs."""
        runs = values.view(-1, RUN)
        return runs[self.drawn(len(runs), draw=draw).to(values.device)].to(torch.bfloat16).view(-1).view(torch.uint8)

    def decompress(self, message: Tensor, into: Tensor, *, weight: float, draw: int) -> None:
        """Adds the drawn runs where they belong."""
        runs = into.view(-1, RUN)
        values = message.view(torch.bfloat16).view(-1, RUN).float()
        runs[self.drawn(len(runs), draw=draw).to(into.device)] += values * weight

    def drawn(self, num_runs: int, *, draw: int) -> Tensor:
        """Numbers of the runs that a draw takes."""
        generator = torch.Generator().manual_seed(draw)
        start, step = torch.randint(num_runs, (2,), generator=generator).tolist()
        while gcd(step, num_runs) > 1:
            step += 1
        wanted = min(num_runs, ceil(num_runs * self._share))
        return (torch.arange(wanted) * step + start) % num_runs

    def refine(self) -> bool:
        """Twice as many, up to all."""
        if self._share >= 1:
            return False
        self._share = min(1.0, 2 * self._share)
        return True
