"""Updated parameters given by their owners to all, in 8 bits: of each the change since the last time."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from meshwright.exchange._wire import Wire
from meshwright.exchange.compression import ByteBlocks

BLOCK = 512


class EncodedHandOut:
    """Parameters that each worker owns a part of, and all use.

    What all use lags behind what the owners have by less than a 255th of a block's last changes. Owners keep the
    difference: what a change's encoding left out is part of the next change.

        hand_out.begin()        # owned parameters are exact now
        optimizer.step()
        hand_out.run()          # all parameters are what all use, the same bits everywhere

    Args:
        parameters: names and tensors, the same on every worker.
        owners: who has each.
        wire: between the workers; this exchange's alone, the caller's to close.
    """

    def __init__(self, parameters: Sequence[tuple[str, Tensor]], owners: Sequence[int], wire: Wire) -> None:
        self._parameters = tuple(parameters)
        self._owners = tuple(owners)
        self._wire = wire
        self._codec = ByteBlocks(BLOCK)
        self._owned = [
            [tensor for (_, tensor), owner in zip(parameters, owners, strict=True) if owner == rank]
            for rank in range(wire.size)
        ]
        length = max(sum(tensor.numel() for tensor in tensors) for tensors in self._owned)
        self._length = -(-length // BLOCK) * BLOCK
        self._owed = [torch.zeros_like(tensor) for tensor in self._owned[wire.rank]]
        self._used: list[Tensor] = []

    @torch.no_grad()
    def begin(self) -> None:
        """Puts the exact values into the owned parameters."""
        own = self._owned[self._wire.rank]
        self._used = [tensor.detach().clone() for tensor in own]
        for tensor, owed in zip(own, self._owed, strict=True):
            tensor.add_(owed)

    @torch.no_grad()
    def run(self) -> None:
        """Gives everybody the changes of the owned parameters."""
        own = self._owned[self._wire.rank]
        changes = torch.zeros(self._length, device=self._parameters[0][1].device)
        for tensor, owed, used, place in zip(own, self._owed, self._used, _places(changes, own), strict=True):
            owed.copy_(tensor)
            place.copy_(tensor).sub_(used)
            tensor.copy_(used)
        self._used = []
        messages = self._wire.gather(self._codec.compress(changes, draw=0))
        for message, tensors in zip(messages, self._owned, strict=True):
            changes.zero_()
            self._codec.decompress(message, changes, weight=1.0, draw=0)
            for tensor, place in zip(tensors, _places(changes, tensors), strict=True):
                tensor.add_(place)
        for tensor, owed in zip(own, self._owed, strict=True):
            owed.sub_(tensor)

    @torch.no_grad()
    def owed(self) -> Iterator[tuple[str, Tensor]]:
        """`owed.NAME`: by how much the exact values differ from those that all use; every worker asks for all."""
        own = iter(self._owed)
        for (name, tensor), owner in zip(self._parameters, self._owners, strict=True):
            found = next(own).clone() if owner == self._wire.rank else torch.zeros_like(tensor)
            self._wire.sum(found)
            yield f"owed.{name}", found

    @torch.no_grad()
    def owe(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from what `owed` gave, on any number of workers."""
        own = iter(self._owed)
        for (name, _), owner in zip(self._parameters, self._owners, strict=True):
            if owner == self._wire.rank:
                place = next(own)
                if f"owed.{name}" in state:
                    place.copy_(state[f"owed.{name}"])


def _places(flat: Tensor, tensors: Sequence[Tensor]) -> Iterator[Tensor]:
    start = 0
    for tensor in tensors:
        yield flat[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()
