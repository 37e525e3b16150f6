"""When islands meet: every fragment once in an interval, at another time than the others."""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.cost import Compression, Updates
from meshwright.exchange import CommunicationThread, Wire
from meshwright.exchange.compression import Method, make_method
from meshwright.parallel.stale._fragment import Fragment


class Meetings:
    """The outer loop of one worker; its counterparts on the other islands run the same one.

    Args:
        parameters: of this worker, equal on all islands now.
        updates: when and how they meet.
        bridge: this worker's counterparts and itself.
        weight: this island's part of the global batch (0 to 1).
        compression: of the messages; None: float32.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        updates: Updates,
        *,
        bridge: dist.ProcessGroup,
        weight: float,
        compression: Compression | None,
    ) -> None:
        self._updates = updates
        device = parameters[0].device
        backend = "gloo" if device.type == "cpu" else "nccl"
        self._wire = Wire(bridge, backend=backend)
        self._thread = CommunicationThread(device)
        self._draw = 0
        self._methods: list[Method] = []
        self._parts = split_evenly(parameters, updates.fragments)
        self.fragments = [
            Fragment(
                part,
                updates,
                weight=weight,
                add_up=self._sum_of(part, compression),
                thread=self._thread,
                message_dtype=None if compression is None else torch.float32,
            )
            for part in self._parts
        ]
        self._under_way: dict[int, list[Fragment]] = {}

    @property
    def sent(self) -> int:
        """Bytes sent so far (B)."""
        return self._wire.sent

    def after(self, step: int) -> None:
        """What is due after a step, counted from 1."""
        for place, fragment in enumerate(self.fragments):
            if is_due(step, self._updates, place, count=len(self.fragments)):
                fragment.start()
                self._under_way.setdefault(step + self._updates.delay, []).append(fragment)
        for fragment in self._under_way.pop(step, []):
            fragment.finish()

    def meet_now(self) -> None:
        """Brings all islands to the same parameters; all of them call it after the same step."""
        self._finish()
        for fragment in self.fragments:
            fragment.start()
            fragment.finish()

    def follow(self, updates: Updates) -> None:
        """Meets otherwise from now on; nothing may be under way."""
        assert not self._under_way
        self._updates = updates
        for fragment in self.fragments:
            fragment.updates = updates

    def refine(self) -> bool:
        """Leaves out less of the messages from now on; False where it cannot."""
        return sum(method.refine() for method in self._methods) > 0

    def sum(self, values: Tensor) -> None:
        """Sums something else over the islands, in place; nothing may be under way."""
        self._wire.sum(values)

    def momenta(self) -> list[Tensor]:
        """The outer optimizer's memory of every parameter, in its place."""
        return [
            place
            for part, fragment in zip(self._parts, self.fragments, strict=True)
            for place in _places(fragment.momentum, part)
        ]

    def left_out(self) -> dict[str, list[Tensor]]:
        """What messages have left out so far, by kind and parameter, in its place; the islands' sum is what counts."""
        found: dict[str, list[Tensor]] = {}
        for part, method in zip(self._parts, self._methods, strict=False):
            for kind, flat in method.elements().items():
                found.setdefault(kind, []).extend(_places(flat, part))
        return found

    def close(self) -> None:
        """Ends what is under way and closes the connections."""
        self._finish()
        self._thread.close()
        self._wire.close()

    def _finish(self) -> None:
        for fragments in self._under_way.values():
            for fragment in fragments:
                fragment.finish()
        self._under_way.clear()

    def _sum_of(self, parameters: Sequence[Tensor], compression: Compression | None) -> Callable[[Tensor], object]:
        wire = self._wire
        if compression is None:
            return wire.sum
        ends = list(accumulate(parameter.numel() for parameter in parameters))
        method = make_method(
            compression,
            shapes=[tuple(parameter.shape) for parameter in parameters],
            offsets=[0, *ends[:-1]],
            numel=ends[-1],
            device=parameters[0].device,
            size=wire.size,
        )
        self._methods.append(method)
        return lambda message: method.sum(message, wire, draw=self._next_draw())

    def _next_draw(self) -> int:
        """Counts on the one thread that sums, in the same order on every island."""
        self._draw += 1
        return self._draw


def is_due(step: int, updates: Updates, place: int, *, count: int) -> bool:
    """Whether a fragment sends its message after a step: the last one at the end of the interval.

    Args:
        step: counted from 1.
        updates: with the interval.
        place: of the fragment.
        count: of fragments.
    """
    return step % updates.interval == updates.interval * (place + 1) // count % updates.interval


def split_evenly(tensors: Sequence[Tensor], count: int) -> list[list[Tensor]]:
    """Consecutive parts of about equal size, none of them empty; fewer than asked for where there are fewer tensors."""
    total = sum(tensor.numel() for tensor in tensors)
    parts: list[list[Tensor]] = [[] for _ in range(count)]
    before = 0
    for tensor in tensors:
        middle = before + tensor.numel() / 2
        parts[min(count - 1, int(middle * count / max(total, 1)))].append(tensor)
        before += tensor.numel()
    return [part for part in parts if part]


def _places(flat: Tensor, tensors: Sequence[Tensor]) -> Iterator[Tensor]:
    """Parts of a flat tensor, one like each of some."""
    start = 0
    for tensor in tensors:
        yield flat[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()


def averaged(buffers: Sequence[Tensor], *, bridge: dist.ProcessGroup, weight: float) -> None:
    """Makes running statistics their mean over the islands, weighted by what they have seen."""
    if not buffers:
        return
    flat = torch.cat([buffer.detach().float().reshape(-1) for buffer in buffers]) * weight
    dist.all_reduce(flat, group=bridge)
    offset = 0
    for buffer in buffers:
        buffer.copy_(flat[offset : offset + buffer.numel()].view_as(buffer))
        offset += buffer.numel()
