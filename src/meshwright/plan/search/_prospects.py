"""What frames may be worth at best: by their work, exchange and memory, before any stages are looked for."""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from meshwright.cost import Offload, Schedule, Sharding
from meshwright.cost.hybrid import ANY_ORDER, USUAL_ORDER, After, HybridPricer, Layout, Shards
from meshwright.plan._goal import Goal
from meshwright.plan._layouts import divisors
from meshwright.plan.search._aim import Aim
from meshwright.plan.search._bubble import bubble, least_step
from meshwright.plan.search._choices import Choices
from meshwright.plan.search._frame import (
    IN_SHARDS,
    WHOLE,
    Frame,
    arranged,
    form_of,
    framed,
    levels,
    offloaded,
    schedules,
)
from meshwright.plan.search._limits import limits
from meshwright.plan.search._reordered import reordered, turned
from meshwright.plan.search._rooms import Rooms
from meshwright.plan.search._shards import with_shards
from meshwright.plan.search._work import LeastWork, Work
from meshwright.units import Bytes

Way = tuple[Schedule, int]  # a schedule with a number of stages


@dataclass(frozen=True, kw_only=True, slots=True)
class Bare:
    """A shape before it is said what is sharded, and in how many parts.

    Args:
        shape: which.
        work: that it takes at least with nothing in shards.
        values: that its ways may be worth at best.
        levels: of sharding that are meant.
    """

    shape: Layout
    work: LeastWork
    values: dict[Way, float]
    levels: tuple[Sharding, ...] = WHOLE

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
        self._fits: dict[Layout, dict[tuple, bool]] = {}
        self._weighed: dict[tuple, NDArray[np.float64]] = {}
        self._shards: dict[tuple, Shards | None] = {}
        self._units = np.bincount(pricer.units.kinds, minlength=pricer.units.num_kinds).astype(np.float64)

    def of_shape(self, shape: Layout, most: float) -> Bare | None:
        """A closer bound on a shape, with the exchange inside its model; None where it is not less than `most`.

        Sharding takes time and never saves any: what is too long without is not looked at with it.
        """
        work = self._work.of_shape(shape)
        values = self._values(shape, schedules(shape, self._choices), work, None, most=most)
        return Bare(shape=shape, work=work, values=values) if values else None

    def frames(self, bare: Bare, most: float) -> Iterator[tuple[float, Frame]]:
        """Frames of a shape that may be worth less than `most`, with a bound; parts that must go to the hosts do."""
        shape = bare.shape
        known = {(None, shape.offload == "activations"): bare.work}
        listed = levels(self._pricer, shape, self._choices, among=bare.levels)
        found = (with_shards(self._pricer, self._goal, one) for one in listed)
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

    def in_shards(self, bare: Bare, most: float) -> Bare | None:
        """The same with its parameters in shards, in whichever number; None where that is not less than `most`.

        What gathers them in every micro-batch takes so much that most shapes need not be looked at with each number.
        """
        first = next(levels(self._pricer, bare.shape, self._choices, among=IN_SHARDS), None)
        if first is None:
            return None
        shards = self._least_shards(replace(first, mesh=bare.shape.mesh))
        if shards is None:
            return replace(bare, levels=IN_SHARDS)
        travels = self._aim.least(self._work.travelling(bare.shape, shards), *self._work.drawn(bare.shape))
        if self._aim.minimize != "memory" and travels >= most:
            return None
        values = self._values(first, bare.values, self._work.in_shards(first, shards), None, most=most)
        return Bare(shape=bare.shape, work=bare.work, values=values, levels=IN_SHARDS) if values else None

    def other_orders(self, shape: Layout, most: float) -> Iterator[tuple[float, Frame | Bare]]:
        """Frames of a shape with its axes in other orders than its own, as `frames`; what is in shards yet as a whole.

        What would be too long with every axis where it is best for it is so in all orders.
        """
        draw, nowhere = self._work.drawn(shape), replace(shape, order=ANY_ORDER)
        if self._aim.minimize != "memory" and self._aim.least(self._work.busy(nowhere), *draw) >= most:
            return
        nearest = self.of_shape(nowhere, most)
        if nearest is None:
            return
        likely, spread = list(self.frames(nearest, most)), self.in_shards(nearest, most)
        if not likely and spread is None:
            return
        for other in reordered(self._pricer, shape, self._choices):
            if self._aim.minimize != "memory" and self._aim.least(self._work.busy(other), *draw) >= most:
                continue
            here = self.in_shards(replace(nearest, shape=other), most) if spread is not None else None
            if not likely and here is None:
                continue
            bare = self.of_shape(other, most)
            if bare is None:
                continue
            known = {(None, shape.offload == "activations"): bare.work}
            for _, frame in likely:
                way = frame.layout.schedule, frame.num_stages
                if way not in bare.values:
                    continue
                for layout in turned(self._pricer, replace(frame.layout, order=other.order), self._choices):
                    values = self._worth(layout, (way,), most, known)
                    yield from ((value, framed(layout, *way)) for value in values.values())
            if here is not None:
                yield max(here.bound, bare.bound), replace(here, work=bare.work)

    def of_frame(self, frame: Frame, most: float) -> float:
        """A lower bound on a frame's value; infinite where it is not less than `most`, or no stages fit the memory."""
        layout, way = frame.layout, (frame.layout.schedule, frame.num_stages)
        if not self._all_rooms(layout).hold(frame.form, self.weights(layout)[None]).all():
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
            layout.division, layout.sharding, layout.shard_group, layout.offload, layout.micro_batches == 1,
            layout.exchange, layout.shards and (layout.shards, layout.replicas), layout.expert_ratio,
        )  # fmt: skip
        if key not in self._weighed:
            kinds = range(self._pricer.units.num_kinds)
            self._weighed[key] = np.array([self._pricer.weight_of(layout, kind) for kind in kinds])
        return self._weighed[key]

    def _least_shards(self, shape: Layout) -> Shards | None:
        """What parameters in shards take at least in any number of them; None where it is not known for all alike."""
        if not self._choices.shards_alike:
            return None
        mesh = shape.mesh
        key = (
            shape.division, mesh.num_shares, mesh.cp, shape.stride("dp_replicate"), shape.stride("cp"),
            shape.exchange, *self._pricer.exchanges.beside(shape),
        )  # fmt: skip
        if key not in self._shards:
            self._shards[key] = self._work.least.shards(shape, divisors(mesh.num_shares)[1:])
        return self._shards[key]

    def _worth(
        self, layout: Layout, ways: Iterable[Way], most: float, known: dict[tuple, LeastWork]
    ) -> dict[Way, float]:  # fmt: skip
        """Those ways of a shape's layout that may be worth less than `most`, with their bounds.

        Args:
            known: work of the shape's layouts so far, by what it depends on.
        """
        sharded, away = layout.sharding == "parameters", layout.offload == "activations"
        key = (layout.mesh.dp_shard, layout.shards, layout.exchange) if sharded else None, away
        after = self._work.least.after(layout)
        if key not in known:
            whole = known.get((None, away))
            if whole is not None:  # shards only add to it
                ways = tuple(self._values(layout, ways, whole, after, most=most))
                if not ways:
                    return {}
            known[key] = self._work.of(layout)
        return self._values(layout, ways, known[key], after, most=most)

    def _values(
        self, layout: Layout, ways: Iterable[Way], least: LeastWork, after: After | None, *, most: float
    ) -> dict[Way, float]:  # fmt: skip
        """Those ways of a layout that may be worth less than `most`, with a bound: work, bubble and what follows."""
        work, draw = self._work, self._work.drawn(layout)
        ahead = work.ahead(least, after)
        follows, spared = (work.mean_after(layout, least, after), after.spared) if after is not None else (0.0, 0.0)
        held = self._held(layout) if after is not None else 0
        found = {}
        for way in ways:
            span = least_step(
                form_of(layout, *way), least.work + work.sent(layout, way[1]), ahead=ahead, after=follows,
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
        weights = [self.weights(one) for one in layouts]
        whole = max(limits(self._pricer, self._goal, shape)) * shape.mesh.pp / self._pricer.correction.memory
        may = (np.array(weights) @ self._units <= whole).tolist()  # all stages together
        found: list[list[Way]] = [[] for _ in layouts]
        open_ = dict[tuple[Offload, Way], list[int]]()
        # where its axes lie is nothing to the memory
        known = self._fits.setdefault(replace(shape, order=USUAL_ORDER), {})
        for place, (one, light) in enumerate(zip(layouts, may, strict=True)):
            for way in schedules(one, self._choices) if light else ():
                if way in worth:
                    fits = known.get((one.offload, way, id(weights[place])))
                    if fits is None:
                        open_.setdefault((one.offload, way), []).append(place)
                    elif fits:
                        found[place].append(way)
        rooms: dict[Offload, Rooms] = {}
        for (offload, way), places in open_.items():
            if offload not in rooms:
                rooms[offload] = self._all_rooms(replace(shape, offload=offload))
            fits = rooms[offload].hold(form_of(shape, *way), np.array([weights[place] for place in places]))
            for place, held in zip(places, fits.tolist(), strict=True):
                known[offload, way, id(weights[place])] = held  # `weights` are kept
                if held:
                    found[place].append(way)
        return found

    def _held(self, layout: Layout) -> Bytes:
        """What the fullest worker holds at least, where that counts, with the same in the hosts' memory too (B)."""
        if self._aim.minimize != "memory":
            return 0
        least = min(self._pricer.weighs(one) for one in (layout, *offloaded(layout, self._choices)))
        return int(least * self._pricer.correction.memory / layout.mesh.pp)

    def _all_rooms(self, layout: Layout) -> Rooms:
        """The rooms of a layout's workers, in any order of its kinds of devices."""
        return Rooms.any_of([self.rooms(one.layout) for one in arranged(Frame(layout=layout, num_stages=1))])
