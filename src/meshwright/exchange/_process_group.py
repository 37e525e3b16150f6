"""Collectives of torch's process groups: gloo between CPUs, NCCL between GPUs."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.errors import WorkerError
from meshwright.exchange._transport import Transfer, Transport


class ProcessGroupTransport(Transport):
    """Torch's own collectives, asynchronous.

    Args:
        group: the workers; None: all of them.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self._group = dist.group.WORLD if group is None else group

    @property
    def rank(self) -> int:
        """This worker's number in the group."""
        return dist.get_rank(self._group)

    @property
    def size(self) -> int:
        """Workers in the group."""
        return dist.get_world_size(self._group)

    def allocate(self, numel: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Ordinary memory: these collectives send from anywhere."""
        return torch.zeros(numel, dtype=dtype, device=device)

    def all_reduce(self, tensor: Tensor) -> Transfer:
        """Sums a tensor over the workers, in place, on every worker."""
        return self._started(dist.all_reduce, tensor)

    def reduce(self, tensor: Tensor, *, root: int) -> Transfer:
        """Sums a tensor over the workers, in place, on the root."""
        return self._started(dist.reduce, tensor, group_dst=root)

    def broadcast(self, tensor: Tensor, *, root: int) -> Transfer:
        """Gives every worker the root's tensor, in place."""
        return self._started(dist.broadcast, tensor, group_src=root)

    def close(self) -> None:
        """Nothing to give back: the process group belongs to whoever made it."""

    def _started(self, collective: Any, tensor: Tensor, **options: int) -> Transfer:
        try:
            return _ProcessGroupTransfer(collective(tensor, group=self._group, async_op=True, **options))
        except RuntimeError as error:
            raise _failure(error) from error


class _ProcessGroupTransfer(Transfer):
    def __init__(self, work: Any) -> None:
        self._work = work

    def advance(self) -> bool:
        return self._work.is_completed()

    def wait(self) -> None:
        try:
            self._work.wait()
        except RuntimeError as error:
            raise _failure(error) from error


def _failure(error: RuntimeError) -> WorkerError:
    return WorkerError(
        f"worker {dist.get_rank()} of {dist.get_world_size()} could not exchange tensors with the others",
        cause=str(error).strip().splitlines()[0],
        alternatives=["look for the first worker that failed: the others only notice that it is gone"],
    )
