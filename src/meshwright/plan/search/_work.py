"""What a layout's work takes at least, whatever its stages are: alone, with its exchange, and on unequal workers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from meshwright.cost.hybrid import After, Form, HybridPricer, Layout, Least, Replica, Shards
from meshwright.plan.search._bubble import Column, Filling, fillings, least_shared, least_shares, least_step
from meshwright.plan.search._burden import Counts
from meshwright.plan.search._choices import Choices
from meshwright.plan.search._frame import schedules
from meshwright.units import Dollars, Seconds, Watts


@dataclass(frozen=True, kw_only=True, slots=True)
class LeastWork:
    """What the slowest replica's work takes at least.

    Args:
        work: of a micro-batch on its fastest workers (s).
        shares: of the forward in a unit of each kind, at least.
        each: of a unit of each kind, at least (s).
        most: of a unit of each kind, at most (s).
        shared: of a micro-batch on the busiest worker, where they differ (s).
        window: of a micro-batch on the mean worker, at most (s).
    """

    work: Seconds
    shares: Column
    each: Column
    most: Column
    shared: Seconds
    window: Seconds


class Work:
    """Least times of one graph's layouts on one cluster; what layouts share is found once.

    Args:
        pricer: prices layouts.
        choices: what may be combined.
        units: of each kind.
        least: what layouts take beside their work.
    """

    def __init__(self, pricer: HybridPricer, choices: Choices, units: Counts, *, least: Least) -> None:
        self._pricer, self._choices, self.least = pricer, choices, least
        self._units = np.array(units, dtype=np.float64)
        self._computed: dict[tuple, tuple[Seconds, tuple[Filling, ...]]] = {}
        self._draws: dict[tuple, tuple[Watts, Dollars]] = {}

    def of_shape(self, shape: Layout) -> LeastWork:
        """The work of a shape with the exchange inside its model, whatever will be in shards."""
        return min(map(self.of, _carried(shape)), key=lambda one: one.work)

    def of(self, layout: Layout) -> LeastWork:
        """The work of a layout with the exchange inside its model."""
        return self._of([
            {kind: (one.forward, one.forward + one.backward)
             for kind, (_, one) in zip(replica.kinds, self._pricer.kinds(layout, replica), strict=True)}
            for replica in layout.replicas
        ], layout)  # fmt: skip

    def in_shards(self, shape: Layout, shards: Shards) -> LeastWork:
        """The work of a shape whose parameters are in shards, which take so much at least.

        A forward waits less for its host's launching where more is exchanged in its backward: none of it is counted.
        """
        found = []
        for replica in shape.replicas:
            times = {kind: self._pricer.times(shape, replica, kind, shards) for kind in dict.fromkeys(replica.kinds)}
            found.append({kind: (one.ahead, one.forward + one.backward) for kind, one in times.items()})
        return self._of(found, shape)

    def travelling(self, shape: Layout, shards: Shards) -> Seconds:
        """A step at least by what travels of parameters in shards alone, which each unit waits for (s)."""
        each = 2 * shards.gathered + shards.scattered
        return self.step_around(shape.micro_batches * float(each @ self._units) / shape.mesh.pp, shape)

    def _of(self, each: Sequence[Mapping[int, tuple[Column, Column]]], layout: Layout) -> LeastWork:
        """Args: each: forward, and with the backward, of units of each kind, by kind of worker of every replica."""
        work, shared, rows = 0.0, 0.0, list[Column]()
        ahead: list[Column] = []
        for replica, times in zip(layout.replicas, each, strict=True):
            both = np.array([whole for _, whole in times.values()])
            if len(times) > 1:
                shared = max(shared, self._shared(both, replica))
            work = max(work, float((both @ self._units).min()))
            rows += [*both]
            ahead += [forward for forward, _ in times.values()]
        every = np.array(rows)
        window = float((every @ self._units).max()) / layout.mesh.pp
        return LeastWork(
            work=work, shares=least_shares(np.array(ahead), every), each=every.min(axis=0), most=every.max(axis=0),
            shared=shared, window=window,
        )  # fmt: skip

    def busy(self, shape: Layout) -> Seconds:
        """A step at least by what each worker computes and waits for inside the model, where devices are alike (s)."""
        [replica, *others] = shape.replicas
        if others or len(set(replica.kinds)) > 1:
            return 0.0
        computed, _ = self._computing(shape, replica.kinds[0], replica.examples)
        waited = min(self._pricer.exchanges.waited(one, replica.examples, self._units) for one in _carried(shape))
        return self.step_around(shape.micro_batches * (computed + waited) / shape.mesh.pp, shape)

    def ahead(self, least: LeastWork, after: After | None = None) -> tuple[Filling, ...]:
        """What fills a pipeline whose backwards are in halves."""
        later = after.rate(least.most) if after is not None else None
        return fillings(least.shares, least.each * self._units, later)

    def mean_after(self, layout: Layout, least: LeastWork, after: After) -> Seconds:
        """What follows a worker's last backward, in the mean over workers at least (s)."""
        return after.once + after.of_mean(self._units / layout.mesh.pp, least.window)

    def sent(self, layout: Layout, num_stages: int) -> Seconds:
        """What all workers together spend at least on what crosses cuts, there and back (s)."""
        return 2 * self.least.all_sent(layout, num_stages)

    def alone(self, shape: Layout) -> Seconds:
        """A step at least, by computing alone (s)."""
        return max(self._alone(shape, replica) for replica in shape.replicas)

    def step_around(self, worked: Seconds, shape: Layout) -> Seconds:
        """A step at least, from what a worker has to do in it (s)."""
        return (worked + self.least.overhead(shape)) * self._pricer.correction.time

    def evenly(self, shape: Layout, kind: int, examples: float) -> Seconds:
        """A step of one kind of worker at least, all computing shared out evenly and nobody ever idle (s).

        Args:
            kind: of the workers.
            examples: of a micro-batch.
        """
        work, _ = self._computing(shape, kind, examples)
        return self.step_around(shape.micro_batches * work / shape.mesh.pp, shape)

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
                     micro_batches=shape.micro_batches), work, ahead=ahead, waited=self.least.waited,
            )
            for schedule, stages in dict(schedules(shape, self._choices)).items()  # with most stages least is idle
        )  # fmt: skip
        return self.step_around(min(found, default=float("inf")), shape)

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
        shared = self._shared(np.array([one.forward + one.backward for one in found]), replica)
        return self.step_around(shape.micro_batches * shared, shape)

    def _shared(self, times: NDArray[np.float64], replica: Replica) -> Seconds:
        """What the busiest worker of a pipeline takes at least for a micro-batch (s).

        Args:
            times: of units on each of its kinds of workers, as they come first.
        """
        workers = np.array([replica.kinds.count(kind) for kind in dict.fromkeys(replica.kinds)], dtype=np.float64)
        return least_shared(times, workers, self._units)

    def _computing(self, shape: Layout, kind: int, examples: float) -> tuple[Seconds, tuple[Filling, ...]]:
        """A micro-batch on all workers of a pipeline of one kind together (s), and what fills it."""
        mesh = shape.mesh
        processes = self._pricer.processes(shape, kind)
        key = mesh.tp, mesh.cp, mesh.ep, shape.sequence, shape.kernels, shape.precision, kind, examples, processes
        if key not in self._computed:
            pieces = self._pricer.pieces_for(shape, Replica(count=1, kinds=(kind,), examples=examples), kind)
            both = pieces.forward + pieces.backward
            ahead = fillings(least_shares(pieces.forward[None], both[None]), both * self._units)
            self._computed[key] = float(both @ self._units), ahead
        return self._computed[key]


def _carried(shape: Layout) -> tuple[Layout, ...]:
    """A shape for all that may carry the exchange inside its model: with parameters in shards nobody is asked."""
    asked = shape.exchange.transport == "gloo" and shape.sharding != "parameters" and shape.mesh.splits_the_model
    return (shape, replace(shape, sharding="parameters")) if asked else (shape,)
