"""Workers of one host that update the same parameters in memory, without locks.

Updates that touch few rows each, as of large embedding tables, rarely meet; where they do, one of two writes is lost.
Source: Niu et al., Hogwild: A Lock-Free Approach to Parallelizing Stochastic Gradient Descent (2011).
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.errors import PlanError
from meshwright.exchange import Segment
from meshwright.parallel._parallelized import Parallelized
from meshwright.parallel.stale._islands import Island
from meshwright.parallel.stale._rates import PartRates, with_rates
from meshwright.parallel.stale._unwaiting import Manner, Unwaiting
from meshwright.units import Seconds

# Tensors begin on a cache line of their own, so that workers do not wait for neighbours' writes.
_LINE = 64


class SharedParameters(Unwaiting):
    """A worker's own steps on everybody's parameters.

    A worker's step counts by its part of the global batch (`PartRates`), so that the updates of all workers together
    are, to first order, the one update of an exact step. The optimizer's state is each worker's own.

    Args:
        inner: this worker's steps.
        island: it.
        group: all workers, which make it at the same time; None: all there are.

    Raises:
        PlanError: a worker is not alone on its island, or not on a CPU, or its steps do not follow a learning rate.
        WorkerError: the workers are not on one host, or it has too little memory.
    """

    def __init__(self, inner: Parallelized, island: Island, *, group: dist.ProcessGroup | None) -> None:
        super().__init__(inner, island, group=group)
        _check(island, self._trained)
        self._part_rates = None if inner.optimizer is None else PartRates(inner.optimizer, weight=island.weight)
        self._own = [parameter.data for parameter in self._trained]
        self._segment = self._shared()
        self._common = [parameter.data for parameter in self._trained]

    @property
    def communication_seconds(self) -> Seconds:
        """None: memory is all that is exchanged."""
        return 0.0

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """The optimizer steps by this worker's part of the batch; wholly where it trains alone, or all step as one."""
        optimizer, rates = self._inner.optimizer, self._rates_now()
        with nullcontext() if optimizer is None or not rates else with_rates(optimizer, rates), self._inner.stepping():
            yield

    def draw_nearer(self) -> str:
        """Exact steps on copies of the parameters: what one write takes from another cannot be made less."""
        if not self.roams:
            return ""
        self._move_to(self._own)
        return self._stay_together()

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Inside of it workers share the parameters, or have copies of their own where they train in another manner."""
        dist.barrier(group=self._everyone)
        yield
        dist.barrier(group=self._everyone)

    @contextmanager
    def _in_manner(self, manner: Manner) -> Iterator[None]:
        self._move_to(self._own)
        with super()._in_manner(manner):
            yield
        for parameter, common in zip(self._trained, self._common, strict=True):
            parameter.data = common

    def close(self) -> None:
        """Gives each worker a copy of its own again."""
        if self.roams:
            self._move_to(self._own)
        self._common = []
        self._inner.close()

    def _come_together(self) -> None:
        dist.barrier(group=self._everyone)

    def _rates_now(self) -> list[float]:
        """The learning rates of this step; none: the user's own."""
        if self._manner == "exact":
            return self._lockstep.rates
        return self._part_rates.now() if self._part_rates is not None and self._manner == "apart" else []

    @torch.no_grad()
    def _move_to(self, places: list[Tensor]) -> None:
        """Puts the parameters elsewhere, with their values."""
        for parameter, place in zip(self._trained, places, strict=True):
            place.copy_(parameter.data)
            parameter.data = place

    def _shared(self) -> Segment:
        """Memory of worker 0 that all map, with its parameters in it."""
        starts, size = [], 0
        for own in self._own:
            starts.append(size)
            size += -(-own.nbytes // _LINE) * _LINE
        rank = dist.get_rank(self._everyone)
        first = dist.get_process_group_ranks(self._everyone)[0]
        segment = Segment.create(size) if rank == 0 else None
        message = [None if segment is None else segment.address]
        dist.broadcast_object_list(message, src=first, group=self._everyone)
        if segment is None:
            assert message[0] is not None
            segment = Segment.attach(message[0])
        for parameter, own, start in zip(self._trained, self._own, starts, strict=True):
            flat = torch.frombuffer(segment.memory, dtype=own.dtype, count=own.numel(), offset=start)
            if rank == 0:
                flat.copy_(own.reshape(-1))
            parameter.data = flat.view(own.shape)
        dist.barrier(group=self._everyone)
        segment.seal()
        return segment


def _check(island: Island, parameters: list[Tensor]) -> None:
    if len(island.ranks) > 1:
        raise PlanError(
            f"parameters shared without locks by islands of {len(island.ranks)} workers",
            cause="each worker updates by itself",
            alternatives=["--set updates=local"],
            command="meshwright run SCRIPT",
        )
    kinds = {parameter.device.type for parameter in parameters} - {"cpu"}
    if kinds:
        raise PlanError(
            f"parameters on {', '.join(sorted(kinds))} shared without locks",
            cause="it takes memory that processes of one host share",
            alternatives=["--set updates=asynchronous", "--set updates=local"],
            command="meshwright run SCRIPT",
        )
