"""Blocking collectives of messages, for one thread: what methods that change gradients are made of."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.exchange._process_group import exchange_failure, new_backend
from meshwright.units import Bytes


class Wire:
    """Connections of their own between the workers of a group, which all make it at the same time.

    Args:
        group: the workers; None: everybody.
        backend: the library.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, *, backend: Literal["gloo", "nccl"] = "gloo") -> None:
        group = dist.group.WORLD if group is None else group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.sent: Bytes = 0
        self._backend = new_backend(group, backend)

    def gather(self, message: Tensor) -> list[Tensor]:
        """Everybody's message, by rank; all are equally long."""
        received = torch.empty(self.size * message.numel(), dtype=message.dtype, device=message.device)
        self._wait(lambda: self._backend._allgather_base(received, message.contiguous()))
        self.sent += (self.size - 1) * message.nbytes
        return list(received.view(self.size, -1))

    def scatter(self, messages: Sequence[Tensor]) -> list[Tensor]:
        """Gives each worker its message of the list; what everybody had for this one, by rank."""
        outgoing = torch.cat([message.view(-1) for message in messages])
        received = torch.empty_like(outgoing)
        self._wait(lambda: self._backend.alltoall_base(received, outgoing, [], []))
        self.sent += outgoing.nbytes * (self.size - 1) // self.size
        return list(received.view(self.size, -1))

    def sum(self, tensor: Tensor) -> None:
        """Sums a tensor over the workers, in place."""
        self._wait(lambda: self._backend.allreduce(tensor))
        self.sent += 2 * tensor.nbytes * (self.size - 1) // self.size

    def gather_at(self, message: Tensor, root: int) -> list[Tensor]:
        """Everybody's message, by rank, on the root; nothing elsewhere."""
        received = [torch.empty_like(message) for _ in range(self.size)] if self.rank == root else []
        options = dist.GatherOptions()
        options.rootRank = root
        self._wait(lambda: self._backend.gather([received] if received else [], [message], options))
        self.sent += message.nbytes * (self.rank != root)
        return received

    def copy_from(self, message: Tensor, root: int) -> None:
        """Gives every worker the root's message, in place."""
        self._wait(lambda: self._backend.broadcast(message, root))
        self.sent += message.nbytes * (self.rank == root)

    def close(self) -> None:
        """Closes the connections."""
        self._backend.shutdown()
        self._backend = None

    def _wait(self, start: Callable[[], Any]) -> None:
        try:
            start().wait()
        except RuntimeError as error:
            raise exchange_failure(error, rank=self.rank, size=self.size) from error
