"""Links over torch's process groups.

On gloo a message is found by its number, and goes at once where its receiver has asked for it before: receives are
started an action early. NCCL carries the messages between two workers in the order in which both start them, which
`_messages` makes the same on both.
"""

import time
from collections import deque
from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.errors import WorkerError
from meshwright.parallel.pipeline._links import Arrival, Links, bytes_of, bytes_to_send, space_for
from meshwright.parallel.pipeline._stages import Value
from meshwright.units import Seconds


class GroupLinks(Links):
    """Links over a process group.

    Args:
        group: the pipeline's workers, in the order of the stages; None: this worker has all stages.
        device: where activations live.
    """

    def __init__(self, group: dist.ProcessGroup | None, device: torch.device) -> None:
        self.rank = dist.get_rank(group) if group is not None else 0
        self.size = dist.get_world_size(group) if group is not None else 1
        self._group = group
        self._device = device
        self._sent: deque[tuple[dist.Work, Tensor]] = deque()
        self.waited: Seconds = 0.0
        # a message of gloo that nobody has asked for yet waits for a second message, which asks for it
        self.ahead = 1 if group is not None and dist.get_backend(group) == dist.Backend.GLOO else 0

    def send(self, tensor: Tensor, value: Value, *, to: int, number: int) -> None:
        """Begins to send a tensor."""
        flat = bytes_to_send(tensor, value)
        if flat.numel():
            work = _started(lambda: dist.isend(flat, group=self._group, group_dst=to, tag=number), value)
            self._sent.append((work, flat))
        while self._sent and self._sent[0][0].is_completed():
            self._sent.popleft()

    def receive(self, value: Value, *, source: int, number: int) -> Arrival:
        """Begins to receive a tensor."""
        tensor = space_for(value, self._device)
        flat = bytes_of(tensor)
        if not flat.numel():
            return self.here(tensor)
        work = _started(lambda: dist.irecv(flat, group=self._group, group_src=source, tag=number), value)
        return Arrival(partial(self._arrived, tensor, work, value.name))

    def finish(self) -> None:
        """Waits until everything is sent."""
        while self._sent:
            work, _ = self._sent.popleft()
            self._wait(work, "an activation")

    def close(self) -> None:
        """The group is its maker's."""

    def _arrived(self, tensor: Tensor, work: dist.Work, name: str) -> Tensor:
        self._wait(work, name)
        return tensor

    def _wait(self, work: dist.Work, name: str) -> None:
        started = time.perf_counter()
        try:
            work.wait()
        except RuntimeError as error:
            raise _failure(name, error) from error
        self.waited += time.perf_counter() - started


def _started(start: Callable[[], dist.Work | None], value: Value) -> dist.Work:
    try:
        work = start()
    except RuntimeError as error:
        raise _failure(value.name, error) from error
    assert work is not None, "this worker belongs to the group"
    return work


def _failure(name: str, error: RuntimeError) -> WorkerError:
    return WorkerError(
        f"{name} could not be carried between two stages of the pipeline",
        cause=str(error).strip().splitlines()[0],
        alternatives=["look for the first worker that failed: the others only notice that it is gone"],
    )
