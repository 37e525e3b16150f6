"""The sum of everybody's gradients on the one worker that owns the parameter; the others keep none of it."""

import time
from collections import deque
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from meshwright.exchange._buckets import Bucket, group
from meshwright.exchange._reduction import ExactReduction, Reduction
from meshwright.exchange._schedule import BackwardSchedule
from meshwright.exchange._transport import Transfer, Transport
from meshwright.units import Bytes, Seconds

# One bucket travels while the next is filled.
SLOTS = 2


class OwnedGradientExchange:
    """Sums each gradient on the worker that owns its parameter, and frees it elsewhere as soon as it is sent.

    Used like `GradientExchange`. Buckets travel through two slots of memory that are used again and again, so a worker
    never holds all gradients at once. The owner's own are where they always are; the others' are added to them.

    Args:
        parameters: names and tensors, all that need gradients, the same on every worker.
        owners: which worker owns each.
        transport: what carries them; this exchange's alone.
        bucket_size: gradients are sent in pieces of about this size (B).
        overlap: whether pieces are sent while the backward goes on.
        reduction: how a bucket's sum is taken; this exchange's alone, the caller's to close. None: exactly.
    """

    def __init__(
        self,
        parameters: Sequence[tuple[str, Tensor]],
        owners: Sequence[int],
        transport: Transport,
        *,
        bucket_size: Bytes,
        overlap: bool = True,
        reduction: Reduction | None = None,
    ) -> None:
        self._tensors = [tensor for _, tensor in parameters]
        self._transport = transport
        self._overlap = overlap
        order = list(reversed(range(len(parameters))))
        self._buckets = group(self._tensors, order, size=bucket_size, owners=owners)
        self._reduction = ExactReduction(transport) if reduction is None else reduction
        self._reduction.lay_out(parameters, self._buckets)
        self._slots = self._allocated_slots()
        self._in_flight: deque[tuple[Bucket, Tensor, Transfer]] = deque()
        self._schedule = BackwardSchedule(parameters, self._buckets, arrived=self._advance, launch=self._launch)
        self.duration: Seconds = 0.0

    def begin(self) -> None:
        """The next backward is the last of the step."""
        if self._overlap:
            self._schedule.arm()

    def finish(self) -> None:
        """Waits until the owned gradients are sums and no other is left; sets `duration` (s)."""
        started = time.perf_counter()
        self._schedule.finish()
        while self._in_flight:
            self._settle()
        self.duration = time.perf_counter() - started

    def forget(self) -> None:
        """Sets all gradients to None."""
        for tensor in self._tensors:
            tensor.grad = None

    def adopt(self) -> None:
        """Nothing to do: gradients stay where the backward puts them."""

    def divide(self, divisor: float) -> None:
        """Divides the gradients that are here."""
        gradients = [tensor.grad for tensor in self._tensors if tensor.grad is not None]
        if gradients:
            torch._foreach_div_(gradients, divisor)

    def close(self) -> None:
        """Takes the hooks off and forgets the gradients; the transport is the caller's to close."""
        self._schedule.close()
        for tensor in self._tensors:
            tensor.grad = None
        for slots in self._slots.values():
            for slot in slots:
                self._transport.release(slot)
        self._slots = {}

    def _allocated_slots(self) -> dict[tuple[torch.dtype, torch.device], deque[Tensor]]:
        lengths: dict[tuple[torch.dtype, torch.device], int] = {}
        for bucket in self._buckets:
            key = (bucket.dtype, bucket.device)
            lengths[key] = max(lengths.get(key, 0), bucket.numel)
        return {
            (dtype, device): deque(self._transport.allocate(numel, dtype, device) for _ in range(SLOTS))
            for (dtype, device), numel in lengths.items()
        }

    def _advance(self, index: int) -> None:
        del index
        while self._in_flight and self._in_flight[0][2].advance():
            self._settle()

    def _launch(self, number: int) -> None:
        bucket = self._buckets[number]
        free = self._slots[bucket.dtype, bucket.device]
        while not free:
            self._settle()
        slot = free.popleft()
        flat = slot[: bucket.numel]
        if bucket.owner != self._transport.rank:
            self._hand_over(bucket, flat)
        transfer = self._reduction.start_at(number, flat, root=bucket.owner, receive=partial(self._add, bucket))
        self._in_flight.append((bucket, slot, transfer))

    def _hand_over(self, bucket: Bucket, flat: Tensor) -> None:
        """Puts another worker's gradients into a bucket, and forgets them."""
        present = []
        for position, member in enumerate(bucket.members):
            tensor = self._tensors[member]
            view = bucket.view(flat, position, tensor)
            present.append(tensor.grad is not None)
            if tensor.grad is None:
                view.zero_()
            else:
                view.copy_(tensor.grad)
            tensor.grad = None
        flags = flat[bucket.flags : bucket.flags + len(present)].fill_(1)
        if not all(present):
            flags.copy_(torch.tensor(present))

    def _add(self, bucket: Bucket, flat: Tensor) -> None:
        """Adds what others had for this worker's gradients."""
        missing = any(self._tensors[member].grad is None for member in bucket.members)
        counts = flat[bucket.flags : bucket.flags + len(bucket.members)].tolist() if missing else []
        for position, member in enumerate(bucket.members):
            tensor = self._tensors[member]
            view = bucket.view(flat, position, tensor)
            if tensor.grad is not None:
                tensor.grad.add_(view)
            elif counts[position] > 0:
                tensor.grad = torch.empty_like(tensor).copy_(view)

    def _settle(self) -> None:
        """Waits for the oldest bucket; its slot is free again."""
        bucket, slot, transfer = self._in_flight.popleft()
        transfer.wait()
        self._slots[bucket.dtype, bucket.device].append(slot)
