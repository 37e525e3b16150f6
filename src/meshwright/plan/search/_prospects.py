"""What frames may be worth at best: by their work, exchange and memory, before any stages are looked for."""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from meshwright.cost import Schedule
from meshwright.cost.hybrid import After, HybridPricer, Layout
from meshwright.plan._goal import Goal
from meshwright.plan.search._aim import Aim
from meshwright.plan.search._bubble import bubble, least_step
from meshwright.plan.search._frame import Choices, Frame, arranged, form_of, framed, levels, offloaded, schedules
from meshwright.plan.search._limits import limits
from meshwright.plan.search._rooms import Rooms, may_hold
from meshwright.plan.search._shards import with_shards
from meshwright.plan.search._work import LeastWork, Work
from meshwright.units import Bytes

Way = tuple[Schedule, int]  # a schedule with a number of stages


@dataclass(frozen=True, kw_only=True, slots=True)
class Bare:
    """A shape before anything is sharded.

    Args:
        shape: which.
        work: that it takes at least.
        values: that its ways may be worth at best.
    """

    shape: Layout
    work: LeastWork
    values: dict[Way, float]

    @property
    def bound(self) -> float:
        """The least of its values."""
        return min(self.values.values())

    @property
    def estimate(self) -> float:
        """With the bubble: what is looked at first."""
        return min(value * (1 + bubble(form_of(self.shape, *way))) for way, value in self.values.items())


class Prospects:
    """Bounds on the frames of one graph on one cluster.

    Args:
        pricer: prices layouts.
        goal: pins and allowances.
        aim: what is made small.
        choices: what may be combined.
        work: what layouts' work takes at least.
    """

    def __init__(self, pricer: HybridPricer, goal: Goal, aim: Aim, *, choices: Choices, work: Work) -> None:
        self._pricer, self._goal, self._aim, self._choices, self._work = pricer, goal, aim, choices, work
        self._rooms: dict[tuple, Rooms] = {}
        self._weighed: dict[tuple, NDArray[np.float64]] = {}
        self._units = np.bincount(pricer.units.kinds, minlength=pricer.units.num_kinds).astype(np.float64)

    def of_shape(self, shape: Layout, most: float) -> Bare | None:
        """A closer bound on a shape, with the exchange inside its model; None where it is not less than `most`.

        Sharding takes time and never saves any: what is too long without is not looked at with it.
        """
        work = self._work.of(shape)
        values = self._values(shape, schedules(shape, self._choices), work, None, most=most)
        return Bare(shape=shape, work=work, values=values) if values else None

    def frames(self, bare: Bare, most: float) -> Iterator[tuple[float, Frame]]:
        """Frames of a shape that may be worth less than `most`, with a bound; parts that must go to the hosts do."""
        shape = bare.shape
        known = {(None, shape.offload == "activations"): bare.work}
        found = (with_shards(self._pricer, self._goal, one) for one in levels(shape, self._choices))
        groups = [(layout, *offloaded(layout, self._choices)) for layout in chain(*found)]
        if not groups:
            return
        fitting = iter(self._fitting(shape, list(chain(*groups)), bare.values))
        for group in groups:
            here: Sequence[Way] = ()
            for place, layout in enumerate(group):
                fits = [way for way in next(fitting) if way not in here]
                values = self._worth(layout, fits, most, known) if fits else {}
                yield from ((value, framed(layout, *way)) for way, value in values.items())
                here = fits if place == 0 else here

    def of_frame(self, frame: Frame, most: float) -> float:
        """A lower bound on a frame's value; infinite where it is not less than `most`, or no stages fit the memory."""
        layout, way = frame.layout, (frame.layout.schedule, frame.num_stages)
        if not may_hold(self._orders(layout), frame.form, self.weights(layout)[None]).all():
            return float("inf")
        least, after = self._work.of(layout), self._work.least.after(layout)
        return self._values(layout, (way,), least, after, most=most).get(way, float("inf"))

    def rooms(self, layout: Layout) -> Rooms:
        """What a layout's workers have room for."""
        how = layout.division, layout.mesh.cp, layout.kernels, layout.precision, layout.threads, layout.offload
        key = *how, layout.replicas, layout.micro_batches
        if key not in self._rooms:
            most = limits(self._pricer, self._goal, layout)
            self._rooms[key] = Rooms(self._pricer, layout, limits=most, recompute=self._goal.pins.recompute)
        return self._rooms[key]

    def weights(self, layout: Layout) -> NDArray[np.float64]:
        """Parameters, gradients and state of one unit of each kind (B)."""
        key = (
            layout.division, layout.sharding, layout.mesh.dp_shard, layout.offload, layout.micro_batches == 1,
            layout.exchange, layout.shards and (layout.shards, layout.replicas), layout.expert_ratio,
        )  # fmt: skip
        if key not in self._weighed:
            kinds = range(self._pricer.units.num_kinds)
            self._weighed[key] = np.array([self._pricer.weight_of(layout, kind) for kind in kinds])
        return self._weighed[key]

    def _worth(
        self, layout: Layout, ways: Iterable[Way], most: float, known: dict[tuple, LeastWork]
    ) -> dict[Way, float]:  # fmt: skip
        """Those ways of a shape's layout that may be worth less than `most`, with their bounds.

        Args:
            known: work of the shape's layouts so far, by what it depends on.
        """
        sharded = layout.sharding == "parameters"
        data = (layout.mesh.dp_shard, layout.shards, layout.exchange) if sharded else None
        key = data, layout.offload == "activations"
        if key not in known:
            known[key] = self._work.of(layout)
        return self._values(layout, ways, known[key], self._work.least.after(layout), most=most)

    def _values(
        self, layout: Layout, ways: Iterable[Way], least: LeastWork, after: After | None, *, most: float
    ) -> dict[Way, float]:  # fmt: skip
        """Those ways of a layout that may be worth less than `most`, with a bound: work, bubble and what follows."""
        work, draw = self._work, self._work.drawn(layout)
        sent, ahead = work.sent(layout), work.ahead(least, after)
        follows, spared = (work.mean_after(layout, least, after), after.spared) if after is not None else (0.0, 0.0)
        held = self._held(layout) if after is not None else 0
        found = {}
        for way in ways:
            span = least_step(
                form_of(layout, *way), least.work + 2 * (way[1] - 1) * sent, ahead=ahead, after=follows,
                spared=spared, waited=work.least.waited,
            )  # fmt: skip
            step = work.step_around(max(span, layout.micro_batches * least.shared), layout)
            value = self._aim.least(step, *draw, peak=held, steps=layout.steps_over_exact)
            if value < most:
                found[way] = value
        return found

    def _fitting(
        self, shape: Layout, layouts: Sequence[Layout], worth: Container[Way]
    ) -> list[list[Way]]:  # fmt: skip
        """Of each of a shape's layouts the ways of some that may fit the memory."""
        weights = np.array([self.weights(one) for one in layouts])
        whole = max(limits(self._pricer, self._goal, shape)) * shape.mesh.pp / self._pricer.correction.memory
        may = (weights @ self._units <= whole).tolist()  # all stages together
        ways = [
            [way for way in schedules(one, self._choices) if way in worth] if light else []
            for one, light in zip(layouts, may, strict=True)
        ]
        found: list[list[Way]] = [[] for _ in layouts]
        for offload in dict.fromkeys(one.offload for one in layouts):
            places = [place for place, one in enumerate(layouts) if one.offload == offload and ways[place]]
            for way in dict.fromkeys(chain(*(ways[place] for place in places))):
                asked = [place for place in places if way in ways[place]]
                away = replace(shape, offload=offload) if offload != shape.offload else shape
                fits = may_hold(self._orders(away), form_of(shape, *way), weights[asked])
                for place, held in zip(asked, fits, strict=True):
                    if held:
                        found[place].append(way)
        return found

    def _held(self, layout: Layout) -> Bytes:
        """What the fullest worker holds at least, where that counts, with the same in the hosts' memory too (B)."""
        if self._aim.minimize != "memory":
            return 0
        least = min(self._pricer.weighs(one) for one in (layout, *offloaded(layout, self._choices)))
        return int(least * self._pricer.correction.memory / layout.mesh.pp)

    def _orders(self, layout: Layout) -> Iterator[Rooms]:
        """The rooms of a layout's workers, for each order of its kinds of devices."""
        return (self.rooms(one.layout) for one in arranged(Frame(layout=layout, num_stages=1)))
