"""Parameters laid end to end, and moved to where others have come while this worker went on."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor


class FlatParameters:
    """Some parameters, or this worker's shards of them.

    Args:
        parameters: at least one.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = list(parameters)
        # never coarser than float32, whatever the parameters are kept in
        self.dtype = reduce(torch.promote_types, (tensor.dtype for tensor in parameters), torch.float32)

    def values(self) -> Tensor:
        """A copy of all of them as they are now, flat."""
        return torch.cat([parameter.detach().to(self.dtype).reshape(-1) for parameter in self._parameters])

    @torch.no_grad()
    def go_on(self, agreed: Tensor, *, sent: Tensor) -> None:
        """Moves them to what was agreed on, and the way that they have gone since they were sent.

        Those that have not moved since are exactly what was agreed on.

        Args:
            agreed: flat.
            sent: what they were when they were sent, flat.
        """
        offset = 0
        for parameter in self._parameters:
            part = slice(offset, offset + parameter.numel())
            offset = part.stop
            since = parameter.detach().to(self.dtype).reshape(-1) - sent[part]
            parameter.copy_((agreed[part] + since).view_as(parameter))
