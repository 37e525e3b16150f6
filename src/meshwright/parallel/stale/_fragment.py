r"""A part of the model on which islands meet: the outer optimizer's memory of it, and the message.

With $\theta$ what the islands last agreed on, $\theta_i$ where island $i$ has come to since, and $w_i$ its part of the
batch, the outer gradient is $g = \sum_i w_i (\theta - \theta_i)$. Nesterov's step (as `torch.optim.SGD` does it) is
$m \leftarrow \mu m + g$, $\theta \leftarrow \theta - \eta (g + \mu m)$. An island that went on meanwhile adds the way
that it has gone since it sent its message.

Source: Douillard et al., DiLoCo (2023), algorithm 1; Streaming DiLoCo (2025) for fragments and delay.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from meshwright.cost import Updates
from meshwright.exchange import CommunicationThread, Transfer
from meshwright.parallel.stale._flat import FlatParameters

# Makes a tensor its sum over the islands, in place; may leave out what it carries over.
Sum = Callable[[Tensor], object]


class Fragment:
    """Some parameters, or this worker's shards of them.

    Args:
        parameters: equal on all islands now.
        updates: how the islands meet.
        weight: this island's part of the global batch (0 to 1).
        add_up: over the islands.
        thread: that does the exchange.
        message_dtype: that the sum needs; None: as exact as the parameters.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        updates: Updates,
        *,
        weight: float,
        add_up: Sum,
        thread: CommunicationThread,
        message_dtype: torch.dtype | None = None,
    ) -> None:
        self._parameters = FlatParameters(parameters)
        self.updates = updates
        self._weight = weight
        self._add_up = add_up
        self._thread = thread
        self.agreed = self._parameters.values()
        self.momentum = torch.zeros_like(self.agreed)
        self._message = torch.empty_like(self.agreed, dtype=message_dtype or self._parameters.dtype)
        self._sent = self.agreed
        self._transfer: Transfer | None = None

    @torch.no_grad()
    def start(self) -> None:
        """Sends this island's way since the last meeting."""
        self._sent = self._parameters.values()
        self._message.copy_((self.agreed - self._sent).mul_(self._weight))
        message, add_up = self._message, self._add_up
        self._transfer = self._thread.start(lambda: add_up(message))

    @torch.no_grad()
    def finish(self) -> None:
        """Waits for the others' ways, steps the outer optimizer, and goes on from there."""
        if self._transfer is None:
            return
        self._transfer.wait()
        self._transfer = None
        self.momentum.mul_(self.updates.momentum).add_(self._message)
        self.agreed.sub_(self._message, alpha=self.updates.rate)
        self.agreed.sub_(self.momentum, alpha=self.updates.rate * self.updates.momentum)
        self._parameters.go_on(self.agreed, sent=self._sent)
