"""Transports that send from any memory, and so have none of their own to keep."""

import torch
from torch import Tensor

from meshwright.exchange._transport import Transport


class OrdinaryMemory(Transport):
    """Gives memory of torch's own and forgets it.

    Args:
        group: the workers; None: all of them.
    """

    def allocate(self, numel: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Ordinary memory: messages are taken from anywhere."""
        return torch.zeros(numel, dtype=dtype, device=device)

    def release(self, tensor: Tensor) -> None:
        """Nothing to forget: the memory is freed with its tensors."""
