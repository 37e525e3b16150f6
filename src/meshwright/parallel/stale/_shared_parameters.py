"""Workers of one host that update the same parameters in memory, without locks.

Updates that touch few rows each, as of large embedding tables, rarely meet; where they do, one of two writes is lost.
Source: Niu et al., Hogwild: A Lock-Free Approach to Parallelizing Stochastic Gradient Descent (2011).
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.errors import PlanError
from meshwright.exchange import Segment
from meshwright.parallel._around import Around
from meshwright.parallel._parallelized import Parallelized
from meshwright.parallel.stale._islands import Island
from meshwright.units import Seconds

# Tensors begin on a cache line of their own, so that workers do not wait for neighbours' writes.
_LINE = 64


class SharedParameters(Around):
    """A worker's own steps on everybody's parameters.

    A worker's gradient counts by its part of the global batch, so that the updates of all workers together are, to
    first order, the one update of an exact step. The optimizer's state is each worker's own.

    Args:
        inner: this worker's steps.
        island: it.
        group: all workers, which make it at the same time; None: all there are.

    Raises:
        PlanError: a worker is not alone on its island, or not on a CPU.
        WorkerError: the workers are not on one host, or it has too little memory.
    """

    def __init__(self, inner: Parallelized, island: Island, *, group: dist.ProcessGroup | None) -> None:
        super().__init__(inner)
        self.island = island
        self._everyone: Any = dist.group.WORLD if group is None else group
        self._parameters = [held.parameter for held in inner.held() if held.parameter.requires_grad]
        _check(island, self._parameters)
        self._own = [parameter.data for parameter in self._parameters]
        self._segment = self._shared()

    @property
    def forwards_together(self) -> bool:
        """Never: nobody waits."""
        return False

    @property
    def communication_seconds(self) -> Seconds:
        """None: memory is all that is exchanged."""
        return 0.0

    def reduce(self, divisor: float) -> None:
        """Divides this worker's gradients, and counts them by its part of the batch."""
        self._inner.reduce(divisor)
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(self.island.weight)

    def clip(self, max_norm: float) -> Tensor:
        """Scales this worker's gradient down to its part of the norm; the norm before, of the whole."""
        return self._inner.clip(max_norm * self.island.weight) / self.island.weight

    def full_parameters(self) -> dict[str, Tensor]:
        """Copies of the parameters once all workers have come here."""
        dist.barrier(group=self._everyone)
        copies = self._inner.full_parameters()
        dist.barrier(group=self._everyone)
        return copies

    def full_state_dict(self) -> dict[str, Tensor]:
        """The same as a `state_dict`; buffers are this worker's."""
        dist.barrier(group=self._everyone)
        copies = self._inner.full_state_dict()
        dist.barrier(group=self._everyone)
        return copies

    def close(self) -> None:
        """Gives each worker a copy of its own again."""
        for parameter, own in zip(self._parameters, self._own, strict=True):
            own.copy_(parameter.data)
            parameter.data = own
        self._inner.close()

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
        for parameter, own, start in zip(self._parameters, self._own, starts, strict=True):
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
