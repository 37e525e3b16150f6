"""What every worker says and hears in each collective of the direct transport."""

from collections.abc import Callable

import torch
from torch import Tensor

from meshwright.exchange._rounding import wide
from meshwright.exchange._transport import Receive
from meshwright.exchange.direct._conversation import Conversation
from meshwright.exchange.direct._travel import Travel
from meshwright.units import Seconds

# Parts begin at multiples of it (elements): vector instructions and cache lines.
LINE = 16


class Swap(Conversation):
    """Two workers send each other everything; each adds. The same bits on both: a sum of two has no order.

    Args:
        tensor: flat; becomes the sum.
        travel: how it travels.
    """

    def __init__(self, tensor: Tensor, travel: Travel, *, rank: int, size: int, timeout: Seconds) -> None:
        super().__init__(rank=rank, size=size, timeout=timeout)
        self._tensor = tensor
        self._travel = travel
        self._own = tensor
        self._other = tensor

    def begin(self) -> None:
        """Sends all of it."""
        self._own = self._travel.rounded(self._tensor)
        for peer in self.others:
            self.say(peer, 0, self._travel.message(self._own))
            self.await_from(peer, 0)

    def heard(self, peer: int, turn: int, message: Tensor) -> None:
        """The other's."""
        del peer, turn
        self._other = self._travel.read(message, self._tensor.numel())

    def complete(self) -> None:
        """Adds: only now has the own tensor left."""
        if self._own is not self._tensor:
            self._tensor.copy_(self._own)
        if self.others:
            self._tensor.add_(self._other)
        self._own = self._other = self._tensor


class ScatteredSum(Conversation):
    """Everybody sends each worker its part, who sums it in the order of the ranks and sends the sum to all.

    A part that comes as a sum may be written where the own part of the same name was sent from: it would not have come
    before that had arrived.

    Args:
        tensor: flat; becomes the sum.
        travel: how it travels, going and coming.
    """

    def __init__(self, tensor: Tensor, travel: Travel, *, rank: int, size: int, timeout: Seconds) -> None:
        super().__init__(rank=rank, size=size, timeout=timeout)
        self._travel = travel
        self._parts = parts_of(tensor, size)
        self._pieces: dict[int, Tensor] = {}

    def begin(self) -> None:
        """Sends the others' parts."""
        for peer in self.others:
            self.await_from(peer, 0)
            self.await_from(peer, 1)
        # not all to the same worker first
        for peer in self.others[self.rank :] + self.others[: self.rank]:
            self.say(peer, 0, self._travel.message(self._travel.rounded(self._parts[peer])))
        self._pieces[self.rank] = self._travel.rounded(self._parts[self.rank])

    def heard(self, peer: int, turn: int, message: Tensor) -> None:
        """A piece of this worker's part, or another worker's summed part."""
        if turn == 0:
            self._pieces[peer] = self._travel.read(message, self._parts[self.rank].numel())
            if len(self._pieces) == self.size:
                self._sum()
            return
        part = self._parts[peer]
        if message.data_ptr() != part.data_ptr():
            part.copy_(self._travel.read(message, part.numel()))

    def place(self, peer: int, turn: int, size: int) -> Tensor | None:
        """A sum goes where it belongs."""
        part = self._parts[peer]
        return as_bytes(part) if turn == 1 and part.dtype == self._travel.dtype and part.nbytes == size else None

    def _sum(self) -> None:
        own = self._parts[self.rank]
        total = self._pieces.pop(0).to(wide(own.dtype), copy=True)
        for peer in range(1, self.size):
            total.add_(self._pieces.pop(peer))
        result = self._travel.rounded(total)
        own.copy_(result)
        message = self._travel.message(result)
        for peer in self.others[self.rank :] + self.others[: self.rank]:
            self.say(peer, 1, message)


class Told(Conversation):
    """The root tells everybody.

    Args:
        tensor: flat; becomes the root's.
        root: whose.
        take: called by who waits, elsewhere than on the root.
    """

    def __init__(
        self, tensor: Tensor, root: int, take: Callable[[], object] | None, *, rank: int, size: int, timeout: Seconds
    ) -> None:
        super().__init__(rank=rank, size=size, timeout=timeout)
        self._tensor = tensor
        self._root = root
        self._take = take if rank != root else None

    def begin(self) -> None:
        """The root speaks."""
        if self.rank != self._root:
            self.await_from(self._root, 0)
            return
        for peer in self.others:
            self.say(peer, 0, as_bytes(self._tensor))

    def heard(self, peer: int, turn: int, message: Tensor) -> None:
        """All of it."""
        del peer, turn
        if message.data_ptr() != self._tensor.data_ptr():
            self._tensor.copy_(Travel(dtype=self._tensor.dtype).read(message, self._tensor.numel()))

    def place(self, peer: int, turn: int, size: int) -> Tensor | None:
        """Where it belongs."""
        del peer, turn
        return as_bytes(self._tensor) if size == self._tensor.nbytes else None

    def last(self) -> None:
        """Shows it, once."""
        take, self._take = self._take, None
        if take is not None:
            take()


class HandedOn(Conversation):
    """The root sends each other worker a part, which sends it to all but the root: nobody's link carries more than one
    tensor.

    Args:
        tensor: flat; becomes the root's.
        root: whose.
    """

    def __init__(self, tensor: Tensor, root: int, *, rank: int, size: int, timeout: Seconds) -> None:
        super().__init__(rank=rank, size=size, timeout=timeout)
        self._root = root
        listeners = [other for other in range(size) if other != root]
        self._parts = dict(zip(listeners, parts_of(tensor, size - 1), strict=True))

    def begin(self) -> None:
        """The root deals the parts."""
        if self.rank == self._root:
            for peer, part in self._parts.items():
                self.say(peer, 0, as_bytes(part))
            return
        self.await_from(self._root, 0)
        for peer in self._parts:
            if peer != self.rank:
                self.await_from(peer, 1)

    def heard(self, peer: int, turn: int, message: Tensor) -> None:
        """A part, the own one to be handed on."""
        part = self._parts[self.rank if turn == 0 else peer]
        if message.data_ptr() != part.data_ptr():
            part.copy_(Travel(dtype=part.dtype).read(message, part.numel()))
        if turn == 0:
            for other in self._parts:
                if other != self.rank:
                    self.say(other, 1, as_bytes(part))

    def place(self, peer: int, turn: int, size: int) -> Tensor | None:
        """Where the part belongs."""
        part = self._parts[self.rank if turn == 0 else peer]
        return as_bytes(part) if size == part.nbytes else None


class Collected(Conversation):
    """Everybody sends the root all; it is shown them in the order of the ranks by who waits.

    Args:
        tensor: flat.
        travel: how it travels.
        root: who is shown them.
        receive: takes one of them.
    """

    def __init__(
        self,
        tensor: Tensor,
        travel: Travel,
        root: int,
        receive: Receive,
        *,
        rank: int,
        size: int,
        timeout: Seconds,
    ) -> None:
        super().__init__(rank=rank, size=size, timeout=timeout)
        self._tensor = tensor
        self._travel = travel
        self._root = root
        self._receive = receive
        self._received: dict[int, Tensor] = {}

    def begin(self) -> None:
        """The root listens."""
        if self.rank != self._root:
            self.say(self._root, 0, self._travel.message(self._travel.rounded(self._tensor)))
            return
        for peer in self.others:
            self.await_from(peer, 0)

    def heard(self, peer: int, turn: int, message: Tensor) -> None:
        """One of them."""
        del turn
        self._received[peer] = self._travel.read(message, self._tensor.numel())

    def last(self) -> None:
        """Shows them, once."""
        for peer in sorted(self._received):
            self._receive(self._received.pop(peer).to(self._tensor.dtype))


def as_bytes(flat: Tensor) -> Tensor:
    """The memory of a flat tensor."""
    return flat.view(torch.uint8)


def parts_of(flat: Tensor, count: int) -> list[Tensor]:
    """A flat tensor in so many parts, nearly equal; the last ones may be shorter, or empty."""
    length = -(-flat.numel() // (count * LINE)) * LINE
    return [flat[min(number * length, flat.numel()) :][:length] for number in range(count)]
