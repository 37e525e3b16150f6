"""Islands of workers that train apart and meet from time to time."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.cost import Compression, Updates, suited_momentum
from meshwright.parallel._around import Around, Inner
from meshwright.parallel._named import batch_norm_buffers
from meshwright.parallel._parallelized import Held
from meshwright.parallel._pieces import Piece, collected, local, taken
from meshwright.parallel.stale._averaging import average_gradients
from meshwright.parallel.stale._islands import Island
from meshwright.parallel.stale._meetings import Meetings, averaged
from meshwright.units import Seconds


class LocalUpdates(Around[Inner]):
    """An island's exact steps, with meetings of the islands around them.

    Between two meetings the parameters of the islands differ. What has to be whole (a checkpoint, the parameters for
    an evaluation) is asked for by all workers after the same step, and makes them meet first.

    Args:
        inner: what the workers of this island do in a step.
        island: who they are.
        updates: when and how islands meet.
        compression: of the messages between islands; None: float32.
        group: all workers; None: all there are.
    """

    def __init__(
        self,
        inner: Inner,
        island: Island,
        updates: Updates,
        *,
        compression: Compression | None,
        group: dist.ProcessGroup | None,
    ) -> None:
        super().__init__(inner)
        self._everyone = group
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
        self._compression = compression
        self._meetings: Meetings | None = None
        self._remembered: Mapping[str, Tensor] = {}
        self._is_exact = self._holds_off = False

    @property
    def communication_seconds(self) -> Seconds:
        """Time of the last step inside the island, and in a meeting (s)."""
        return self._inner.communication_seconds + self._waited

    @property
    def sent(self) -> int:
        """Bytes that this worker has sent to other islands (B)."""
        return 0 if self._meetings is None else self._meetings.sent

    def reduce(self, divisor: float) -> None:
        """Makes every gradient the island's, divided; all islands' where steps are exact."""
        self._inner.reduce(divisor)
        if self._is_exact:
            self._average_gradients(divisor)

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """After the step, what is due of a meeting."""
        # only now a model that is split has the parts of its parameters that meet, and they are equal on all islands
        meetings = self._joined()
        with self._inner.stepping():
            yield
        if self._is_exact:
            return
        self._steps += 1
        if self._holds_off:
            return
        begun = time.perf_counter()
        meetings.after(self._steps)
        if self._steps % self._updates.interval == 0:
            self._average_statistics()
            if self._updates.fragments == 1 and not self._updates.delay:
                self._met = self._steps
        self._waited = time.perf_counter() - begun

    def full_parameters(self) -> dict[str, Tensor]:
        """Copies of the parameters that the islands agree on now, by name."""
        self.settle()
        return self._inner.full_parameters()

    def full_state_dict(self) -> dict[str, Tensor]:
        """A copy of the `state_dict` that the islands agree on now."""
        self.settle()
        return self._inner.full_state_dict()

    def held_state(self) -> list[Piece]:
        """What this worker has of what the islands agree on now."""
        self.settle()
        return self._inner.held_state()

    def close(self) -> None:
        """Leaves the other islands, then the own one."""
        if self._meetings is not None:
            self._meetings.close()
        self._inner.close()

    def settle(self) -> None:
        """Brings the islands together where they have gone on; twice in a row would let the momentum carry them on."""
        if self._met == self._steps:
            return
        self._met = self._steps
        self._joined().meet_now()
        self._average_statistics()

    @contextmanager
    def in_step(self) -> Iterator[None]:
        """Inside of it all islands take the same exact steps."""
        self.settle()
        self._is_exact = True
        try:
            yield
        finally:
            self._is_exact = False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside of it nobody meets; what was due is made up for by `settle`."""
        self._holds_off = True
        try:
            yield
        finally:
            self._holds_off = False

    def draw_nearer(self) -> str:
        """Leaves out less of the messages, then meets more often; all islands do it after the same step."""
        self.settle()
        if self._joined().refine():
            return "more of the islands' ways is sent from now on"
        before = self._updates
        if before.interval == 1:
            return ""
        self._updates = more_often(before)
        self._joined().follow(self._updates)
        return (
            f"the islands meet every {_steps(self._updates.interval)} instead of every {_steps(before.interval)}, "
            f"with an outer momentum of {self._updates.momentum:.2g}"
        )

    def averaged(self, value: float) -> float:
        """A loss of this island, averaged over all."""
        total = torch.tensor([value * self.island.weight], dtype=torch.float64)
        self._joined().sum(total)
        return float(total)

    def carried(self) -> Iterator[tuple[str, Tensor]]:
        """The outer optimizer's memory, and what messages have left out, summed over the islands; whole on worker 0."""
        self.settle()
        meetings, trained = self._joined(), self._trained()
        kept = {"outer.momentum": meetings.momenta()}
        for kind, places in meetings.left_out().items():
            kept[f"outer.{kind}"] = [place.clone() for place in places]
            for place in kept[f"outer.{kind}"]:
                meetings.sum(place)
        yield from collected(
            [
                Piece(name=f"{kind}.{held.name}", tensor=place, spans=held.spans)
                for kind, places in kept.items()
                for held, place in zip(trained, places, strict=True)
            ],
            self._everyone,
        )

    def carry(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from what `carried` gave, with any islands."""
        self._remembered = state

    def _trained(self) -> list[Held]:
        return [held for held in self._inner.held() if held.parameter.requires_grad]

    def _joined(self) -> Meetings:
        """The meetings; all workers join them before their first step."""
        if self._meetings is None:
            trained = self._trained()
            self._meetings = Meetings(
                [local(held.parameter) for held in trained],
                self._updates,
                bridge=self.island.bridge,
                weight=self.island.weight,
                compression=self._compression,
            )
            self._recall(self._meetings, trained)
        return self._meetings

    @torch.no_grad()
    def _recall(self, meetings: Meetings, trained: Sequence[Held]) -> None:
        """Takes this worker's parts of what a checkpoint had."""
        if not self._remembered:
            return
        own = {held.name: (held.spans, tuple(local(held.parameter).shape)) for held in trained}
        everyones: list[Any] = [None] * dist.get_world_size(self._everyone)
        dist.all_gather_object(everyones, own, group=self._everyone)
        kept = {"outer.momentum": (meetings.momenta(), 1)}
        kept |= {f"outer.{kind}": (places, self._updates.islands) for kind, places in meetings.left_out().items()}
        for kind, (places, parts) in kept.items():
            for held, place in zip(trained, places, strict=True):
                whole = self._remembered.get(f"{kind}.{held.name}")
                if whole is not None:
                    pieces = [each[held.name] for each in everyones if held.name in each]
                    place.copy_(taken(whole, held.spans, pieces) / parts)
        self._remembered = {}

    def _average_gradients(self, divisor: float) -> None:
        """Makes gradients those of the global batch: by the islands' parts of it, or by the weights of their losses."""
        average_gradients(
            [held.parameter for held in self._trained()],
            weight=self.island.weight if divisor == 1 else divisor,
            add_up=self._joined().sum,
        )

    @torch.no_grad()
    def _average_statistics(self) -> None:
        averaged(self._statistics, bridge=self.island.bridge, weight=self.island.weight)


def more_often(updates: Updates) -> Updates:
    """Half the interval, with the outer optimizer that suits it."""
    interval = max(1, updates.interval // 2)
    momentum = min(updates.momentum, suited_momentum(interval))
    return replace(
        updates,
        interval=interval,
        momentum=momentum,
        rate=updates.rate if momentum else 1.0,
        delay=min(updates.delay, max(0, interval // updates.fragments - 1)),
    )


def _steps(count: int) -> str:
    return "step" if count == 1 else f"{count} steps"
