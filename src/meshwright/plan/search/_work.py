"""What a layout's work takes at least, whatever its stages are: alone, with its exchange, and on unequal workers."""

import numpy as np
from numpy.typing import NDArray

from meshwright.cost.hybrid import Form, HybridPricer, Layout, Replica
from meshwright.plan.search._bubble import least_share, least_shared, least_step
from meshwright.plan.search._burden import Counts
from meshwright.plan.search._frame import Choices, schedules
from meshwright.units import Dollars, Seconds, Watts


class Work:
    """Least times of one graph's layouts on one cluster; what layouts share is found once.

    Args:
        pricer: prices layouts.
        choices: what may be combined.
        units: of each kind.
    """

    def __init__(self, pricer: HybridPricer, choices: Choices, units: Counts) -> None:
        self._pricer, self._choices = pricer, choices
        self._units = np.array(units, dtype=np.float64)
        self._computed: dict[tuple, tuple[Seconds, float]] = {}
        self._draws: dict[tuple, tuple[Watts, Dollars]] = {}

    def of(self, layout: Layout) -> tuple[Seconds, float, Seconds]:
        """Of the slowest replica: work of a micro-batch on its fastest workers (s), the forward's least share in any.

        And what the busiest worker takes at least, where they differ (s).
        """
        work, ahead, shared = 0.0, 1.0, 0.0
        for replica in layout.replicas:
            kinds = dict(zip(replica.kinds, (one for _, one in self._pricer.kinds(layout, replica)), strict=True))
            times = list(kinds.values())
            both = np.array([one.forward + one.backward for one in times])
            if len(kinds) > 1:
                shared = max(shared, self._shared(both, replica))
            work = max(work, float((both @ self._units).min()))
            ahead = min(ahead, least_share(np.array([one.forward for one in times]), both))
        return work, ahead, shared

    def alone(self, shape: Layout) -> Seconds:
        """A step at least, by computing alone (s)."""
        return max(self._alone(shape, replica) for replica in shape.replicas)

    def evenly(self, shape: Layout, kind: int, examples: float) -> Seconds:
        """A step of one kind of worker at least, all computing shared out evenly and nobody ever idle (s).

        Args:
            kind: of the workers.
            examples: of a micro-batch.
        """
        work, _ = self._computing(shape, kind, examples)
        return shape.micro_batches * work / shape.mesh.pp

    def computed(self, shape: Layout, kind: int, examples: float) -> Seconds:
        """A step of one kind of worker at least, by computing alone, under whichever schedule (s).

        Args:
            kind: of the workers.
            examples: of a micro-batch.
        """
        work, ahead = self._computing(shape, kind, examples)
        found = (
            least_step(
                Form(schedule=schedule, num_workers=shape.mesh.pp, num_stages=stages,
                     micro_batches=shape.micro_batches), work, ahead=ahead,
            )
            for schedule, stages in schedules(shape, self._choices)
        )  # fmt: skip
        return min(found, default=float("inf"))

    def drawn(self, layout: Layout) -> tuple[Watts, Dollars]:
        """Power and price of a layout's devices: of as many of the same kinds they are the same."""
        places = layout.mesh.tp * layout.mesh.cp
        key = tuple(
            (replica.kinds, replica.count * places) if len(set(replica.kinds)) > 1
            else (replica.kinds[0], replica.count * places * layout.mesh.pp)
            for replica in layout.replicas
        )  # fmt: skip
        if key not in self._draws:
            self._draws[key] = self._pricer.draw(layout)
        return self._draws[key]

    def _alone(self, shape: Layout, replica: Replica) -> Seconds:
        kinds = dict.fromkeys(replica.kinds)
        if len(kinds) == 1:
            return self.computed(shape, replica.kinds[0], replica.examples)
        found = [self._pricer.pieces_for(shape, replica, kind) for kind in kinds]
        return shape.micro_batches * self._shared(np.array([one.forward + one.backward for one in found]), replica)

    def _shared(self, times: NDArray[np.float64], replica: Replica) -> Seconds:
        """What the busiest worker of a pipeline takes at least for a micro-batch (s).

        Args:
            times: of units on each of its kinds of workers, as they come first.
        """
        workers = np.array([replica.kinds.count(kind) for kind in dict.fromkeys(replica.kinds)], dtype=np.float64)
        return least_shared(times, workers, self._units)

    def _computing(self, shape: Layout, kind: int, examples: float) -> tuple[Seconds, float]:
        """A micro-batch on all workers of a pipeline of one kind together (s), and the forward's least part of any."""
        mesh = shape.mesh
        processes = self._pricer.processes(shape, kind)
        key = mesh.tp, mesh.cp, mesh.ep, shape.sequence, shape.kernels, shape.precision, kind, examples, processes
        if key not in self._computed:
            pieces = self._pricer.pieces_for(shape, Replica(count=1, kinds=(kind,), examples=examples), kind)
            both = pieces.forward + pieces.backward
            self._computed[key] = float(both @ self._units), least_share(pieces.forward, both)
        return self._computed[key]
