"""Workers that wait for nobody in a step, and come together where they are compared with exact steps."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.parallel._around import Around
from meshwright.parallel._parallelized import Parallelized
from meshwright.parallel._pieces import Piece
from meshwright.parallel.stale._assembly import Assembly
from meshwright.parallel.stale._islands import Island
from meshwright.parallel.stale._lockstep import Lockstep

# How a step is taken: as the plan says; with everybody's gradients; with nobody else at all.
Manner = Literal["apart", "exact", "alone"]


class Unwaiting(Around[Parallelized]):
    """A worker's own steps.

    Args:
        inner: this worker's steps.
        island: it, alone.
        group: all workers, which make it at the same time; None: all there are.
    """

    def __init__(self, inner: Parallelized, island: Island, *, group: dist.ProcessGroup | None) -> None:
        super().__init__(inner)
        self.island = island
        everyone: Any = dist.group.WORLD if group is None else group
        self._everyone = everyone
        self._trained = [held.parameter for held in inner.held() if held.parameter.requires_grad]
        self._name = self._agreed_name()
        self._assembly = Assembly(self._name, size=dist.get_world_size(everyone))
        self._lockstep = Lockstep(self._trained, inner.optimizer, weight=island.weight, group=everyone)
        self._manner: Manner = "apart"
        self._is_exact_for_good = False

    @property
    def forwards_together(self) -> bool:
        """Never: gradients alone are exchanged, where anything is."""
        return False

    @property
    def roams(self) -> bool:
        """Whether workers still wait for nobody, outside of comparisons."""
        return not self._is_exact_for_good

    def reduce(self, divisor: float) -> None:
        """Divides this worker's gradients; makes them all workers' where steps are exact."""
        self._inner.reduce(divisor)
        if self._manner == "exact":
            self._lockstep.average(divisor)

    def full_parameters(self) -> dict[str, Tensor]:
        """Copies of what the workers have come to together; every worker calls it and waits for the slowest."""
        self.settle()
        copies = self._inner.full_parameters()
        dist.barrier(group=self._everyone)
        return copies

    def full_state_dict(self) -> dict[str, Tensor]:
        """The same as a `state_dict`; buffers are this worker's."""
        self.settle()
        copies = self._inner.full_state_dict()
        dist.barrier(group=self._everyone)
        return copies

    def held_state(self) -> list[Piece]:
        """What this worker has of what the workers have come to together."""
        self.settle()
        return self._inner.held_state()

    def call(self) -> None:
        """Calls all workers together; one worker does that."""
        self._assembly.call()

    def is_called(self) -> bool:
        """Whether this worker is called."""
        return self._assembly.is_called()

    def come(self) -> bool:
        """Waits for the others; whether all have come."""
        return self._assembly.come()

    def settle(self) -> None:
        """Brings all workers to the same parameters; every worker calls it after as many steps, or has come."""
        with self._assembly.away():
            if self._is_exact_for_good:
                self._lockstep.wait()
            else:
                self._come_together()

    def in_step(self) -> AbstractContextManager[None]:
        """Inside of it steps are exact; all workers take as many."""
        return self._in_manner("exact")

    def alone(self) -> AbstractContextManager[None]:
        """Inside of it each worker trains by itself."""
        return self._in_manner("alone")

    def averaged(self, value: float) -> float:
        """A loss of this worker, averaged over all by their parts of the batch."""
        total = torch.tensor([value * self.island.weight], dtype=torch.float64, device=self._trained[0].device)
        dist.all_reduce(total, group=self._everyone)
        return float(total)

    @abstractmethod
    def draw_nearer(self) -> str:
        """Loses less from now on; what was changed, or nothing where nothing can be."""

    @abstractmethod
    def undone(self) -> AbstractContextManager[None]:
        """Inside of it, from where all agree, steps leave no trace in what is exchanged.

        What the worker itself holds is put back by who calls, before anybody goes on.
        """

    @abstractmethod
    def _come_together(self) -> None:
        """Brings all workers to the same parameters."""

    @contextmanager
    def _in_manner(self, manner: Manner) -> Iterator[None]:
        before, self._manner = self._manner, manner
        try:
            yield
        finally:
            self._manner = before

    def _stay_together(self) -> str:
        """Exact steps from now on; says so."""
        self._is_exact_for_good = True
        self._manner = "exact"
        self._lockstep.share()
        return "all workers take exact steps together from now on, as fast as the slowest"

    def _agreed_name(self) -> str:
        """One that was never used before, of worker 0."""
        message = [f"meshwright/{uuid4().hex}"]
        dist.broadcast_object_list(message, src=dist.get_process_group_ranks(self._everyone)[0], group=self._everyone)
        return message[0]
