"""Islands of workers that train apart and meet from time to time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from meshwright.cost import Compression, Updates
from meshwright.parallel._around import Around
from meshwright.parallel._named import batch_norm_buffers
from meshwright.parallel._parallelized import Parallelized
from meshwright.parallel._pieces import Piece, local
from meshwright.parallel.stale._islands import Island
from meshwright.parallel.stale._meetings import Meetings, averaged
from meshwright.units import Seconds


class LocalUpdates(Around):
    """An island's exact steps, with meetings of the islands around them.

    Between two meetings the parameters of the islands differ. What has to be whole (a checkpoint, the parameters for
    an evaluation) is asked for by all workers after the same step, and makes them meet first.

    Args:
        inner: what the workers of this island do in a step.
        island: who they are.
        updates: when and how islands meet.
        compression: of the messages between islands; None: float32.
    """

    def __init__(
        self, inner: Parallelized, island: Island, updates: Updates, *, compression: Compression | None
    ) -> None:
        super().__init__(inner)
        self.island = island
        self._updates = updates
        self._steps = self._met = 0
        self._waited: Seconds = 0.0
        model = inner.model
        self._statistics = [
            buffer
            for buffer in model.buffers()
            if id(buffer) in batch_norm_buffers(model) and buffer.is_floating_point()
        ]
        trained = [held.parameter for held in inner.held() if held.parameter.requires_grad]
        self._meetings = Meetings(
            [local(parameter) for parameter in trained],
            updates,
            bridge=island.bridge,
            weight=island.weight,
            compression=compression,
        )

    @property
    def communication_seconds(self) -> Seconds:
        """Time of the last step inside the island, and in a meeting (s)."""
        return self._inner.communication_seconds + self._waited

    @property
    def sent(self) -> int:
        """Bytes that this worker has sent to other islands (B)."""
        return self._meetings.sent

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """After the step, what is due of a meeting."""
        with self._inner.stepping():
            yield
        self._steps += 1
        begun = time.perf_counter()
        self._meetings.after(self._steps)
        if self._steps % self._updates.interval == 0:
            self._average_statistics()
            if self._updates.fragments == 1 and not self._updates.delay:
                self._met = self._steps
        self._waited = time.perf_counter() - begun

    def full_parameters(self) -> dict[str, Tensor]:
        """Copies of the parameters that the islands agree on now, by name."""
        self._meet()
        return self._inner.full_parameters()

    def full_state_dict(self) -> dict[str, Tensor]:
        """A copy of the `state_dict` that the islands agree on now."""
        self._meet()
        return self._inner.full_state_dict()

    def held_state(self) -> list[Piece]:
        """What this worker has of what the islands agree on now."""
        self._meet()
        return self._inner.held_state()

    def close(self) -> None:
        """Leaves the other islands, then the own one."""
        self._meetings.close()
        self._inner.close()

    def _meet(self) -> None:
        """Brings the islands together where they have gone on; twice in a row would let the momentum carry them on."""
        if self._met == self._steps:
            return
        self._met = self._steps
        self._meetings.meet_now()
        self._average_statistics()

    @torch.no_grad()
    def _average_statistics(self) -> None:
        averaged(self._statistics, bridge=self.island.bridge, weight=self.island.weight)
