"""Collectives over TCP between every two workers: both directions of every link busy at once, buckets in a row.

gloo's ring sends a part, waits, adds, and sends on, bucket by bucket. Here every worker sends each other worker its
part at once, adds what has come in the order of the ranks, and sends the sum round; the next bucket's messages follow
without a pause. The bytes are a ring's, 2 (n - 1)/n of the tensor, in two steps instead of 2 (n - 1). Two workers send
each other everything in one step, which are as many bytes.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.exchange._ordinary_memory import OrdinaryMemory
from meshwright.exchange._transport import Receive, Transfer
from meshwright.exchange.direct._collectives import Collected, HandedOn, ScatteredSum, Swap, Told
from meshwright.exchange.direct._connections import connect_all
from meshwright.exchange.direct._conversation import Conversation
from meshwright.exchange.direct._flows import Flows
from meshwright.exchange.direct._travel import Packing, Travel
from meshwright.units import KIB, Bytes, Seconds

TIMEOUT: Seconds = 1800.0
# A larger broadcast leaves its root once, in parts that the others hand on.
LARGE: Bytes = 64 * KIB


class DirectTransport(OrdinaryMemory):
    """Connections of its own between all workers of a group, and one thread that moves what is said on them.

    Args:
        group: the workers, which all make the transport at the same time; None: everybody.
        packing: of what is summed, the same on all workers.
        timeout: how long a collective waits for another worker (s).

    Attributes:
        packing: of what is summed from now on; changed on all workers between the same two sums.

    Raises:
        WorkerError: the workers cannot reach each other.
    """

    def __init__(
        self, group: dist.ProcessGroup | None = None, *, packing: Packing = "none", timeout: Seconds = TIMEOUT
    ) -> None:
        super().__init__(group)
        self.packing: Packing = packing
        self._timeout = timeout
        self._flows = Flows(connect_all(group), rank=self.rank)

    def all_reduce(self, tensor: Tensor) -> Transfer:
        """Sums a tensor over the workers, in place, on every worker."""
        return self.sum_rounded(tensor, tensor.dtype)

    def sum_rounded(self, tensor: Tensor, dtype: torch.dtype) -> Transfer:
        """Sums a tensor that travels in another data type; rounded values are summed in float32 or more exactly.

        Between two workers each value is rounded once, between more the sum is rounded again.
        """
        kind = Swap if self.size <= 2 else ScatteredSum
        return self._begun(
            kind(flat(tensor), self._travel(dtype), rank=self.rank, size=self.size, timeout=self._timeout)
        )

    def broadcast(self, tensor: Tensor, *, root: int) -> Transfer:
        """Gives every worker the root's tensor, in place."""
        if self.size > 2 and tensor.nbytes > LARGE:
            return self._begun(HandedOn(flat(tensor), root, rank=self.rank, size=self.size, timeout=self._timeout))
        return self._told(tensor, root, None)

    def publish(self, tensor: Tensor, *, root: int, receive: Receive) -> Transfer:
        """Shows the root's tensor to all others; roots that publish in turns keep all links busy."""
        return self._told(tensor, root, partial(receive, tensor))

    def collect(self, tensor: Tensor, *, root: int, receive: Receive) -> Transfer:
        """Shows the others' tensors to the root, one by one."""
        return self.collect_rounded(tensor, tensor.dtype, root=root, receive=receive)

    def collect_rounded(self, tensor: Tensor, dtype: torch.dtype, *, root: int, receive: Receive) -> Transfer:
        """The same with tensors that travel in another data type."""
        return self._begun(
            Collected(
                flat(tensor),
                self._travel(dtype),
                root,
                receive,
                rank=self.rank,
                size=self.size,
                timeout=self._timeout,
            )
        )

    def close(self) -> None:
        """Closes the connections."""
        self._flows.close()

    def _travel(self, dtype: torch.dtype) -> Travel:
        return Travel(dtype=dtype, packing=self.packing)

    def _told(self, tensor: Tensor, root: int, take: Callable[[], object] | None) -> Transfer:
        return self._begun(Told(flat(tensor), root, take, rank=self.rank, size=self.size, timeout=self._timeout))

    def _begun(self, conversation: Conversation) -> Transfer:
        self._flows.begin(conversation)
        return conversation


def flat(tensor: Tensor) -> Tensor:
    """A contiguous tensor's elements in their memory."""
    return tensor.detach().view(-1)
