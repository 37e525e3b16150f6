"""Activations and gradients between the workers of a pipeline, sent and received while they compute.

A tensor travels as the bytes of its memory in its own layout, whatever its type. Both sides know type and layout from
the program, so nothing is negotiated. On gloo a message is found by its number, and goes at once where its receiver has
asked for it before: receives are started an action early. NCCL carries the messages between two workers in the order in
which both start them, which `_messages` makes the same on both.
"""

import time
from collections import deque
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.errors import WorkerError
from meshwright.parallel.pipeline._stages import Value
from meshwright.units import Seconds


class Arrival:
    """A tensor on its way to this worker.

    Args:
        value: what it is.
        tensor: where it arrives.
        work: what to wait for; None where it is here already.
        links: they keep account of the wait.
    """

    def __init__(self, value: Value, tensor: Tensor, work: dist.Work | None, links: "Links") -> None:
        self._value = value
        self._tensor = tensor
        self._work = work
        self._links = links

    def wait(self) -> Tensor:
        """The tensor, once it is here.

        Raises:
            WorkerError: the other worker has ended, or does not answer.
        """
        if self._work is not None:
            self._links.wait(self._work, self._value.name)
            self._work = None
        return self._tensor


class Links:
    """This worker's links to the others of its pipeline.

    Args:
        group: the pipeline's workers, in the order of the stages; None: this worker has all stages.
        device: where activations live.

    Attributes:
        rank: of this worker among them.
        size: how many they are.
        ahead: how many actions before its own a receive may be started.
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
        """Begins to send a tensor.

        Args:
            tensor: an activation, or its gradient.
            value: what it is.
            to: the worker.
            number: of the message, different from all that are under way.
        """
        flat = _flat(_in_layout(tensor.detach(), value))
        if flat.numel():
            work = self._started(lambda: dist.isend(flat, group=self._group, group_dst=to, tag=number), value)
            self._sent.append((work, flat))
        while self._sent and self._sent[0][0].is_completed():
            self._sent.popleft()

    def receive(self, value: Value, *, source: int, number: int) -> Arrival:
        """Begins to receive a tensor.

        Args:
            value: what it is.
            source: the worker that sends it.
            number: of the message.
        """
        tensor = torch.empty_strided(value.shape, value.stride, dtype=value.dtype, device=self._device)
        flat = _flat(tensor)
        work = None
        if flat.numel():
            work = self._started(lambda: dist.irecv(flat, group=self._group, group_src=source, tag=number), value)
        return Arrival(value, tensor, work, self)

    def here(self, tensor: Tensor, value: Value) -> Arrival:
        """A tensor that another stage of this worker made."""
        return Arrival(value, tensor.detach(), None, self)

    def finish(self) -> None:
        """Waits until everything is sent."""
        while self._sent:
            work, _ = self._sent.popleft()
            self.wait(work, "an activation")

    def wait(self, work: dist.Work, name: str) -> None:
        """Waits for a message.

        Raises:
            WorkerError: the other worker has ended, or does not answer.
        """
        started = time.perf_counter()
        try:
            work.wait()
        except RuntimeError as error:
            raise _failure(name, error) from error
        self.waited += time.perf_counter() - started

    def _started(self, start: Any, value: Value) -> dist.Work:
        try:
            return start()
        except RuntimeError as error:
            raise _failure(value.name, error) from error


def _failure(name: str, error: RuntimeError) -> WorkerError:
    return WorkerError(
        f"{name} could not be carried between two stages of the pipeline",
        cause=str(error).strip().splitlines()[0],
        alternatives=["look for the first worker that failed: the others only notice that it is gone"],
    )


def _in_layout(tensor: Tensor, value: Value) -> Tensor:
    assert tensor.shape == value.shape and tensor.dtype == value.dtype, (value, tensor.shape, tensor.dtype)  # noqa: PT018
    if tensor.stride() == value.stride and not tensor.is_conj() and not tensor.is_neg():
        return tensor
    return torch.empty_strided(value.shape, value.stride, dtype=value.dtype, device=tensor.device).copy_(tensor)


def _flat(tensor: Tensor) -> Tensor:
    """All bytes of a tensor that fills its memory."""
    return torch.as_strided(tensor, (tensor.numel(),), (1,)).view(torch.uint8)
