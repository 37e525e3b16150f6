"""The sum of encoded gradients, with what was left out carried over to the next step."""

from typing import Literal

import torch
from torch import Tensor

from meshwright.exchange._wire import Wire
from meshwright.exchange.compression._codec import Codec
from meshwright.exchange.compression._method import Method

Route = Literal["gathered", "scattered"]


class EncodedSum(Method):
    """Encodes gradients plus what was carried over, exchanges the messages, sums what they say.

    `gathered`: everybody gets everybody's message, n - 1 messages for n workers. `scattered`: each worker gets its n-th
    of all messages, sums it in float32, and gives everybody the encoded sum, 2 (n - 1)/n messages; what that second
    encoding leaves out, the worker that made it carries over.

    With momentum m the values encoded are averages a = m a + (1 - m) g of the gradients g instead of these.

    Args:
        codec: the encoding.
        numel: length of the bucket's gradients.
        device: where they are.
        size: workers.
        route: of the messages.
        momentum: of the averages (0 to 1); 0: none.
    """

    def __init__(
        self, codec: Codec, numel: int, device: torch.device, *, size: int, route: Route, momentum: float = 0.0
    ) -> None:
        self._codec = codec
        self._numel = numel
        self._route = route
        self._momentum = momentum
        unit = codec.block * (size if route == "scattered" else 1)
        padded = -(-numel // unit) * unit
        # the gradients of a step are added to it, and what is sent is taken off again
        self._carried = torch.zeros(padded, device=device)
        self._average = torch.zeros(numel if momentum else 0, device=device)

    def sum(self, values: Tensor, wire: Wire, *, draw: int) -> None:
        """Makes the values the sum of what the messages say."""
        self._take(values)
        total = torch.zeros_like(self._carried)
        if self._route == "gathered":
            self._gather(total, wire, draw=draw)
        else:
            self._scatter(total, wire, draw=draw)
        values.copy_(total[: self._numel])

    def collect(self, values: Tensor, wire: Wire, *, root: int, draw: int) -> None:
        """Makes the root's values the sum of the others' messages; elsewhere they are spent."""
        if wire.rank != root:
            self._take(values)
        message = self._encoded(self._carried, draw=draw, carries=wire.rank != root)
        received = wire.gather_at(message, root)
        if wire.rank == root:
            total = torch.zeros_like(self._carried)
            for rank, other in enumerate(received):
                if rank != root:
                    self._codec.decompress(other, total, weight=1.0, draw=draw)
            values.copy_(total[: self._numel])

    def elements(self) -> dict[str, Tensor]:
        """What is carried over, and the averages."""
        kept = {"carried": self._carried[: self._numel]}
        return {**kept, "average": self._average} if self._momentum else kept

    def factors(self) -> dict[int, Tensor]:
        """Nothing by parameter."""
        return {}

    def refine(self) -> bool:
        """Encodes more exactly."""
        return self._codec.refine()

    def _take(self, values: Tensor) -> None:
        if self._momentum:
            values = self._average.lerp_(values.float(), 1 - self._momentum)
        self._carried[: self._numel].add_(values)

    def _encoded(self, values: Tensor, *, draw: int, carries: bool = True) -> Tensor:
        """A message; its values are taken off what it encodes."""
        message = self._codec.compress(values, draw=draw)
        if carries:
            self._codec.decompress(message, values, weight=-1.0, draw=draw)
        return message

    def _gather(self, total: Tensor, wire: Wire, *, draw: int) -> None:
        for message in wire.gather(self._encoded(self._carried, draw=draw)):
            self._codec.decompress(message, total, weight=1.0, draw=draw)

    def _scatter(self, total: Tensor, wire: Wire, *, draw: int) -> None:
        parts = self._carried.view(wire.size, -1)
        received = wire.scatter([self._encoded(part, draw=draw) for part in parts])
        own = torch.zeros_like(parts[0])
        for message in received:
            self._codec.decompress(message, own, weight=1.0, draw=draw)
        summed = self._encoded(own, draw=draw)
        parts[wire.rank].add_(own)
        for message, part in zip(wire.gather(summed), total.view(wire.size, -1), strict=True):
            self._codec.decompress(message, part, weight=1.0, draw=draw)
