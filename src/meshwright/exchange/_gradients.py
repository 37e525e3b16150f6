"""The sum of everybody's gradients on every worker, sent in buckets while the backward goes on."""

import time
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from meshwright.exchange._buckets import Bucket, group
from meshwright.exchange._reduction import ExactReduction, Reduction
from meshwright.exchange._schedule import BackwardSchedule
from meshwright.exchange._transport import Transfer, Transport
from meshwright.units import Bytes, Seconds


class GradientExchange:
    """Sums gradients over the workers.

    A gradient lives in its bucket's memory, from which the transport sends without a copy: the first gradient of a
    step is moved there as soon as it is computed, later micro-batches add to it there. Buckets follow the parameters
    backwards, and from the second step on the order in which gradients came on worker 0.

        exchange.begin()        # before the backward of the step's last micro-batch
        loss.backward()
        exchange.finish()       # every gradient is the sum now

    Args:
        parameters: names and tensors, all that need gradients, the same on every worker.
        transport: what carries them; this exchange's alone.
        bucket_size: gradients are sent in pieces of about this size (B).
        overlap: whether pieces are sent while the backward goes on.
        reduction: how a bucket's sum is taken; this exchange's alone, the caller's to close. None: exactly.
    """

    def __init__(
        self,
        parameters: Sequence[tuple[str, Tensor]],
        transport: Transport,
        *,
        bucket_size: Bytes,
        overlap: bool = True,
        reduction: Reduction | None = None,
    ) -> None:
        self._parameters = tuple(parameters)
        self._tensors = [tensor for _, tensor in parameters]
        self._transport = transport
        self._reduction = ExactReduction(transport) if reduction is None else reduction
        self._bucket_size = bucket_size
        self._overlap = overlap
        self._in_flight: deque[Transfer] = deque()
        self._order = list(reversed(range(len(parameters))))
        self._order_is_learnt = False
        self._lay_out(self._order)
        self.duration: Seconds = 0.0

    def begin(self) -> None:
        """The next backward is the last of the step."""
        if self._overlap:
            self._schedule.arm()

    def finish(self) -> None:
        """Waits until every gradient is the sum; sets `duration`, how long that took (s)."""
        started = time.perf_counter()
        self._schedule.finish()
        while self._in_flight:
            self._in_flight.popleft().wait()
        for bucket, flat in zip(self._buckets, self._flats, strict=True):
            self._settle(bucket, flat)
        if self._overlap and not self._order_is_learnt and self._buckets:
            self._learn_order()
        self.duration = time.perf_counter() - started

    def forget(self) -> None:
        """Sets all gradients to None; every worker does it at the same time."""
        for tensor in self._tensors:
            tensor.grad = None
        if self._order != self._laid_out:
            self._schedule.close()
            for flat in self._flats:
                self._transport.release(flat)
            self._lay_out(self._order)

    def adopt(self) -> None:
        """Moves all gradients there are into the memory of the exchange, as the backward does with each."""
        for index in range(len(self._tensors)):
            self._adopt(index)

    def divide(self, divisor: float) -> None:
        """Divides all gradients."""
        for flat in self._flats:
            flat.div_(divisor)

    def close(self) -> None:
        """Takes the hooks off and forgets the gradients; the transport is the caller's to close."""
        self._schedule.close()
        for tensor in self._tensors:
            tensor.grad = None
        for flat in self._flats:
            self._transport.release(flat)
        self._flats, self._views = [], {}

    def _lay_out(self, order: Sequence[int]) -> None:
        self._laid_out = list(order)
        self._buckets = group(self._tensors, order, size=self._bucket_size)
        self._flats: list[Tensor] = []
        self._views: dict[int, Tensor] = {}
        for bucket in self._buckets:
            flat = self._transport.allocate(bucket.numel, bucket.dtype, bucket.device)
            self._flats.append(flat)
            for position, member in enumerate(bucket.members):
                self._views[member] = bucket.view(flat, position, self._tensors[member])
        self._reduction.lay_out(self._parameters, self._buckets)
        self._schedule = BackwardSchedule(self._parameters, self._buckets, arrived=self._arrived, launch=self._launch)

    def _adopt(self, index: int) -> None:
        """Moves a gradient into its bucket."""
        gradient, view = self._tensors[index].grad, self._views[index]
        if gradient is not None and gradient.data_ptr() != view.data_ptr():
            view.copy_(gradient)
            self._tensors[index].grad = view

    def _arrived(self, index: int) -> None:
        """Uses the moment in which a gradient comes to bring transfers under way forward."""
        self._adopt(index)
        while self._in_flight and self._in_flight[0].advance():
            self._in_flight.popleft().wait()

    def _launch(self, number: int) -> None:
        bucket, flat = self._buckets[number], self._flats[number]
        for member in bucket.members:
            self._adopt(member)
        missing = [member for member in bucket.members if self._tensors[member].grad is None]
        flags = flat[bucket.flags : bucket.flags + len(bucket.members)].fill_(1)
        if missing:
            for member in missing:
                self._views[member].zero_()
            present = [float(self._tensors[member].grad is not None) for member in bucket.members]
            flags.copy_(torch.tensor(present))
        self._in_flight.append(self._reduction.start(number, flat))

    def _settle(self, bucket: Bucket, flat: Tensor) -> None:
        """Gives a parameter that had no gradient here the sum, where another worker had one."""
        if all(self._tensors[member].grad is not None for member in bucket.members):
            return
        counts = flat[bucket.flags : bucket.flags + len(bucket.members)].tolist()
        for member, count in zip(bucket.members, counts, strict=True):
            if count > 0:
                self._tensors[member].grad = self._views[member]

    def _learn_order(self) -> None:
        arrived = self._schedule.arrivals
        order = [*arrived, *(index for index in self._order if index not in arrived)]
        agreed = torch.tensor(order, dtype=torch.int64, device=self._tensors[0].device)
        self._transport.broadcast(agreed, root=0).wait()
        self._order = agreed.tolist()
        self._order_is_learnt = True
