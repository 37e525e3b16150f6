"""Collectives of torch's own libraries: gloo between CPUs, NCCL between GPUs."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal
from uuid import uuid4

import torch.distributed as dist
from torch import Tensor

from meshwright.errors import WorkerError
from meshwright.exchange._ordinary_memory import OrdinaryMemory
from meshwright.exchange._transport import Receive, Transfer


def new_backend(group: dist.ProcessGroup | None, backend: Literal["gloo", "nccl"]) -> Any:
    """Connections of their own between the workers of a group, which all ask for them at the same time.

    A process group does its collectives one after another; two users of one group would have to agree on whose turn
    it is. `dist.new_group` would do, but must be called by workers outside of the group too; its way around that,
    `use_local_synchronization`, takes names again that the store still holds addresses for.
    """
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    names: list[Any] = [None] * size
    dist.all_gather_object(names, uuid4().hex, group=group)
    store = dist.PrefixStore(f"meshwright/{names[0]}", dist.distributed_c10d._get_default_store())
    # torch's own stubs leave out what these classes inherit
    kind: Any = dist.ProcessGroupGloo if backend == "gloo" else dist.ProcessGroupNCCL
    return kind(store, rank, size)


def exchange_failure(error: RuntimeError, *, rank: int, size: int) -> WorkerError:
    """What a failed collective means to the user."""
    return WorkerError(
        f"worker {rank} of {size} could not exchange tensors with the others",
        cause=str(error).strip().splitlines()[0],
        alternatives=["look for the first worker that failed: the others only notice that it is gone"],
    )


class ProcessGroupTransport(OrdinaryMemory):
    """Torch's collectives, asynchronous, with connections of their own.

    Args:
        group: the workers, which all make the transport at the same time; None: everybody.
        backend: the library.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, *, backend: Literal["gloo", "nccl"] = "gloo") -> None:
        super().__init__(group)
        self._backend = new_backend(group, backend)

    def all_reduce(self, tensor: Tensor) -> Transfer:
        """Sums a tensor over the workers, in place, on every worker."""
        return self._started(lambda: self._backend.allreduce(tensor))

    def broadcast(self, tensor: Tensor, *, root: int) -> Transfer:
        """Gives every worker the root's tensor, in place."""
        return self._started(lambda: self._backend.broadcast(tensor, root))

    def publish(self, tensor: Tensor, *, root: int, receive: Receive) -> Transfer:
        """Shows the root's tensor to all others."""
        takes = partial(receive, tensor) if self.rank != root else None
        return self._started(lambda: self._backend.broadcast(tensor, root), takes)

    def collect(self, tensor: Tensor, *, root: int, receive: Receive) -> Transfer:
        """Shows the sum of the others' tensors to the root."""
        takes = partial(receive, tensor) if self.rank == root else None
        if takes is not None:
            tensor.zero_()
        return self._started(lambda: self._backend.reduce(tensor, root), takes)

    def close(self) -> None:
        """Closes the connections, and ends the threads behind them."""
        self._backend.shutdown()
        self._backend = None

    def _started(self, start: Callable[[], Any], takes: Callable[[], object] | None = None) -> Transfer:
        try:
            return _ProcessGroupTransfer(start(), self, takes)
        except RuntimeError as error:
            raise self.failure(error) from error

    def failure(self, error: RuntimeError) -> WorkerError:
        """What a failed collective means to the user."""
        return exchange_failure(error, rank=self.rank, size=self.size)


class _ProcessGroupTransfer(Transfer):
    def __init__(self, work: Any, transport: ProcessGroupTransport, takes: Callable[[], object] | None) -> None:
        self._work = work
        self._transport = transport
        self._takes = takes

    def advance(self) -> bool:
        return self._work.is_completed()

    def wait(self) -> None:
        try:
            self._work.wait()
        except RuntimeError as error:
            raise self._transport.failure(error) from error
        if self._takes is not None:
            self._takes()
            self._takes = None
