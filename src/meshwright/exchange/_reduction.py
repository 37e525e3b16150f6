"""How the sum of a bucket is taken: exactly, or by a method that sends less."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor

from meshwright.cost import Compression
from meshwright.errors import PlanError
from meshwright.exchange._buckets import Bucket
from meshwright.exchange._exactness import Exactness
from meshwright.exchange._hand_out import EncodedHandOut
from meshwright.exchange._hierarchical import HierarchicalTransport
from meshwright.exchange._thread import CommunicationThread
from meshwright.exchange._transport import Transfer, Transport
from meshwright.exchange._wire import Wire
from meshwright.exchange.compression import EncodedSum, Method, make_method
from meshwright.units import Bytes

# What is drawn at random in a bucket differs from what is drawn in another; a step has fewer buckets than this.
DRAWS_PER_STEP = 100_003
COUNTS = "counts"


class Reduction(ABC):
    """Sums buckets one after another; the same buckets in every step."""

    def __init__(self) -> None:
        self._exactness = Exactness()

    def exactly(self) -> AbstractContextManager[object]:
        """Inside of it sums are exact, and what is kept from step to step stays as it is."""
        return self._exactness.holding()

    @abstractmethod
    def lay_out(self, parameters: Sequence[tuple[str, Tensor]], buckets: Sequence[Bucket]) -> None:
        """Tells which parameters the buckets hold from now on; what is kept by parameter stays."""

    @abstractmethod
    def start(self, number: int, flat: Tensor) -> Transfer:
        """Starts to make a bucket's memory the sum over the workers, in place.

        Args:
            number: of the bucket.
            flat: its memory, flags included, which are summed exactly.
        """

    @abstractmethod
    def start_at(self, number: int, flat: Tensor, *, root: int, receive: Callable[[Tensor], object]) -> Transfer:
        """Starts to show the root the others' bucket; what it is given adds up to their sum.

        Args:
            number: of the bucket.
            flat: its memory; on the root it counts for nothing, and is spent.
            root: who is shown it.
            receive: called on the root, before the transfer is done.
        """

    @abstractmethod
    def carried(self) -> Iterator[tuple[str, Tensor]]:
        """What is kept from step to step, by kind and parameter: `carried.NAME`; summed over the workers.

        Every worker asks for all of it. Only the sum counts: how it is spread over the workers, whose number may be
        another one tomorrow, changes nothing of what is sent in the end.
        """

    @abstractmethod
    def carry(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what `carried` gave, or what of it there is, in equal parts."""

    @abstractmethod
    def refine(self) -> bool:
        """Sends more from the next step on; False where it cannot."""

    @abstractmethod
    def hand_out(self, parameters: Sequence[tuple[str, Tensor]], owners: Sequence[int]) -> EncodedHandOut | None:
        """How owners give their parameters to all with fewer bytes; None: as they are.

        Args:
            parameters: names and tensors, the same on every worker.
            owners: who has each.
        """

    @property
    @abstractmethod
    def sent(self) -> Bytes:
        """What this worker has sent so far (B); 0 where it is not counted."""

    @abstractmethod
    def close(self) -> None:
        """Ends what works in the background. No sum may be under way."""


class ExactReduction(Reduction):
    """The transport's own sum.

    Args:
        transport: carries the buckets.
    """

    def __init__(self, transport: Transport) -> None:
        super().__init__()
        self._transport = transport

    def lay_out(self, parameters: Sequence[tuple[str, Tensor]], buckets: Sequence[Bucket]) -> None:
        """Nothing to prepare."""

    def start(self, number: int, flat: Tensor) -> Transfer:
        """An all-reduce."""
        del number
        return self._transport.all_reduce(flat)

    def start_at(self, number: int, flat: Tensor, *, root: int, receive: Callable[[Tensor], object]) -> Transfer:
        """A reduce."""
        del number
        return self._transport.collect(flat, root=root, receive=receive)

    def carried(self) -> Iterator[tuple[str, Tensor]]:
        """Nothing is kept."""
        return iter(())

    def carry(self, state: Mapping[str, Tensor]) -> None:
        """Nothing is kept."""

    def refine(self) -> bool:
        """Nothing is left out."""
        return False

    def hand_out(self, parameters: Sequence[tuple[str, Tensor]], owners: Sequence[int]) -> EncodedHandOut | None:
        """As they are."""
        del parameters, owners

    @property
    def sent(self) -> Bytes:
        """Not counted."""
        return 0

    def close(self) -> None:
        """Nothing works in the background."""


class LossyReduction(Reduction):
    """A method's sum, on a thread of its own beside the backward.

    Args:
        choice: what is sent.
        wire: this reduction's alone; None on a worker whose gradients another one of its host sends.
        device: where gradients are.
        transport: takes exact sums; one of two levels sums inside hosts before anything is compressed.
    """

    def __init__(
        self,
        choice: Compression | torch.dtype,
        wire: Wire | None,
        device: torch.device,
        *,
        transport: Transport,
    ) -> None:
        super().__init__()
        self._choice = choice
        self._wire = wire
        self._transport = transport
        self._thread = CommunicationThread(device)
        self._names: list[str] = []
        self._buckets: Sequence[Bucket] = ()
        self._lengths: list[int] = []
        self._methods: list[Method] = []
        self._refined = 0
        self._steps = 0

    def lay_out(self, parameters: Sequence[tuple[str, Tensor]], buckets: Sequence[Bucket]) -> None:
        """Makes a method for each bucket."""
        elements, factors = self._elements(), self._factors()
        self._names = [name for name, _ in parameters]
        self._lengths = [tensor.numel() for _, tensor in parameters]
        self._buckets = buckets
        self._methods = [
            make_method(
                self._choice,
                shapes=[_lying(parameters[member][1]) for member in bucket.members],
                offsets=bucket.offsets,
                numel=bucket.flags,
                device=bucket.device,
                size=self._wire.size,
            )
            for bucket in buckets
            if self._wire is not None
        ]
        for _ in range(self._refined):
            self._refine_all()
        _overwrite(self._elements(), elements)
        _overwrite(self._factors(), factors)

    def start(self, number: int, flat: Tensor) -> Transfer:
        """Gradients by the method, flags exactly."""
        if self._exactness.holds:
            return self._transport.all_reduce(flat)
        task = partial(self._sum, number, flat, self._draw(number))
        if not isinstance(self._transport, HierarchicalTransport):
            return self._thread.start(task)
        return self._transport.sum_through(flat, partial(self._thread.start, task) if self._wire is not None else None)

    def start_at(self, number: int, flat: Tensor, *, root: int, receive: Callable[[Tensor], object]) -> Transfer:
        """The others' encoded gradients, decoded on the root."""
        if self._exactness.holds:
            return self._transport.collect(flat, root=root, receive=receive)
        if isinstance(self._transport, HierarchicalTransport):
            raise PlanError(
                "gradients in shards cannot be compressed between hosts only",
                cause="a bucket is sent to the worker that owns it, on whichever host that is",
                alternatives=["--set transport=gloo", "--set sharding=none"],
            )
        return self._thread.start(partial(self._collect, number, flat, root, receive, self._draw(number)))

    def carried(self) -> Iterator[tuple[str, Tensor]]:
        """`KIND.NAME` of what each parameter keeps, and the number of steps and of refinements."""
        for key, tensor in self._elements().items():
            summed = tensor.clone()
            if self._wire is not None:
                self._wire.sum(summed)
            yield key, summed
        yield from self._factors().items()
        yield COUNTS, torch.tensor([self._steps, self._refined])

    def carry(self, state: Mapping[str, Tensor]) -> None:
        """Every worker takes an equal part."""
        if COUNTS in state:
            self._steps, refined = state[COUNTS].tolist()
            while self._refined < refined:
                self.refine()
        parts = 1 if self._wire is None else self._wire.size
        _overwrite(self._elements(), {key: value / parts for key, value in state.items() if key != COUNTS})
        _overwrite(self._factors(), state)

    def refine(self) -> bool:
        """Sends more from the next step on."""
        self._refined += 1
        return self._refine_all()

    def hand_out(self, parameters: Sequence[tuple[str, Tensor]], owners: Sequence[int]) -> EncodedHandOut | None:
        """In 8 bits where gradients are compressed; used between sums, when the thread has nothing to do."""
        if self._wire is None or isinstance(self._transport, HierarchicalTransport):
            return None
        return EncodedHandOut(parameters, owners, self._wire) if isinstance(self._choice, Compression) else None

    @property
    def sent(self) -> Bytes:
        """What the wire has carried from here."""
        return 0 if self._wire is None else self._wire.sent

    def close(self) -> None:
        """Ends the thread and closes the connections."""
        self._thread.close()
        if self._wire is not None:
            self._wire.close()

    def _elements(self) -> dict[str, Tensor]:
        """`KIND.NAME` of what each parameter keeps here, in its place."""
        return {
            f"{kind}.{self._names[member]}": flat[start : start + self._lengths[member]]
            for bucket, method in zip(self._buckets, self._methods, strict=False)
            for kind, flat in method.elements().items()
            for member, start in zip(bucket.members, bucket.offsets, strict=True)
        }

    def _factors(self) -> dict[str, Tensor]:
        """What is kept alike everywhere, in its place."""
        return {
            f"factor.{self._names[bucket.members[position]]}": factor
            for bucket, method in zip(self._buckets, self._methods, strict=False)
            for position, factor in method.factors().items()
        }

    def _refine_all(self) -> bool:
        return sum(method.refine() for method in self._methods) > 0

    def _draw(self, number: int) -> int:
        self._steps += number == 0
        return self._steps * DRAWS_PER_STEP + number

    def _sum(self, number: int, flat: Tensor, draw: int) -> None:
        assert self._wire is not None
        bucket = self._buckets[number]
        self._clear_gaps(number, flat)
        self._methods[number].sum(flat[: bucket.flags], self._wire, draw=draw)
        self._wire.sum(flat[bucket.flags :])

    def _collect(self, number: int, flat: Tensor, root: int, receive: Callable[[Tensor], object], draw: int) -> None:
        assert self._wire is not None
        bucket, method = self._buckets[number], self._methods[number]
        self._clear_gaps(number, flat)
        if self._wire.rank == root:
            flat[bucket.flags :].zero_()
        if isinstance(method, EncodedSum):
            method.collect(flat[: bucket.flags], self._wire, root=root, draw=draw)
        else:
            if self._wire.rank == root:
                flat[: bucket.flags].zero_()
            method.sum(flat[: bucket.flags], self._wire, draw=draw)
        self._wire.sum(flat[bucket.flags :])
        if self._wire.rank == root:
            receive(flat)

    def _clear_gaps(self, number: int, flat: Tensor) -> None:
        """Between aligned parameters lies what the last sum's rounding put there; summed again it would grow."""
        bucket = self._buckets[number]
        for member, start, following in zip(
            bucket.members, bucket.offsets, (*bucket.offsets[1:], bucket.flags), strict=True
        ):
            end = start + self._lengths[member]
            if end < following:
                flat[end:following].zero_()


def _overwrite(places: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Puts values where there is a place of the same length."""
    for key, place in places.items():
        if key in values and values[key].numel() == place.numel():
            place.copy_(values[key].view(place.shape))


def _lying(tensor: Tensor) -> tuple[int, ...]:
    """A parameter's lengths from the slowest to the fastest dimension in memory."""
    order = sorted(range(tensor.dim()), key=lambda dim: (-tensor.stride(dim), dim))
    return tuple(tensor.shape[dim] for dim in order)
