"""The best layout of all: shapes in the order of their bounds, until no bound is below the best price found."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush, nsmallest
from itertools import chain, count

import numpy as np
from numpy.typing import NDArray

from meshwright.cost import Mesh, Schedule
from meshwright.cost.hybrid import HybridPricer, Layout, Price, Replica
from meshwright.plan._goal import Goal
from meshwright.plan.search._aim import Aim
from meshwright.plan.search._bubble import least_step
from meshwright.plan.search._burden import Counts
from meshwright.plan.search._frame import (
    Choices,
    Devices,
    Frame,
    arranged,
    choices_of,
    device_sets,
    form_of,
    framed,
    keeps_all,
    levels,
    offloaded,
    schedules,
    shapes,
)
from meshwright.plan.search._limits import limits
from meshwright.plan.search._rooms import Rooms, may_hold
from meshwright.plan.search._shards import with_shards
from meshwright.plan.search._stages import ROUNDING, Effort, StageSearch, bubble, least_sent
from meshwright.plan.search._work import Work
from meshwright.units import Bytes, Dollars, Watts

# What is looked at, in partial choices of a pipeline: making a frame, bounding one; a price counts once per stage.
_FRAME, _BOUND = 0.1, 2.0
_AFTER_ITSELF = 1.05  # how much later a frame is looked at with parts in the hosts' memory
_IDLE = 12  # probes in a row that find nothing better, after which everything is bounded first
_PROBED = 0.25  # of the effort, until which it is probed then
_DIVES = 16  # frames that are probed yet when the effort is spent
_PATIENCE = 8  # times the effort that is spent where nothing that fits was found yet


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A layout and its price."""

    layout: Layout
    price: Price


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a search found.

    Args:
        best: None where nothing fits.
        gap: by what share of its value the best could at most be beaten by what was only bounded; 0: it is the best.
        considered: shapes and frames that were bounded.
        priced: layouts that were priced in full.
        front: layouts that no other priced one beats in time, money and memory at once, fastest first.
    """

    best: Found | None
    gap: float = 0.0
    considered: int = 0
    priced: int = 0
    front: tuple[Found, ...] = ()


@dataclass(slots=True)
class _State:
    best: Found | None = None
    value: float = float("inf")
    open: float = float("inf")
    considered: int = 0
    priced: int = 0
    work: float = 0.0
    seen: list[Found] = field(default_factory=list)


class _Heap:
    """What is left to look at, by how good it looks; what cannot be better than the best found is dropped."""

    def __init__(self, state: _State) -> None:
        self._state = state
        self._items: list[tuple[float, int, float, Layout | Frame | StageSearch]] = []
        self._order = count()

    def push(self, bound: float, estimate: float, item: Layout | Frame | StageSearch) -> None:
        self._state.considered += 1
        if bound < self._state.value * (1 - ROUNDING):
            heappush(self._items, (estimate, next(self._order), bound, item))

    @property
    def least(self) -> float:
        """The lowest bound of what is left."""
        return min((bound for _, _, bound, _ in self._items), default=float("inf"))

    def deepest(self, number: int) -> list[StageSearch]:
        """Of the frames whose stages could be looked for at once, so many of those that look best."""
        found = [item for item in self._items if isinstance(item[3], StageSearch)]
        return [search for *_, search in nsmallest(number, found) if isinstance(search, StageSearch)]

    def __iter__(self) -> Iterator[tuple[float, Layout | Frame | StageSearch]]:
        while self._items:
            _, _, bound, item = heappop(self._items)
            if bound < self._state.value * (1 - ROUNDING):
                yield bound, item


def _any(_mesh: Mesh) -> bool:
    return True


class Search:
    """Searches one graph on one cluster.

    Args:
        pricer: prices layouts.
        goal: pins, allowances and the limit of memory.
        aim: what is made small.
        effort: how much of one frame is looked at.
    """

    def __init__(self, pricer: HybridPricer, goal: Goal, aim: Aim, *, effort: Effort = Effort()) -> None:  # noqa: B008
        self._pricer, self._goal, self._aim, self._effort = pricer, goal, aim, effort
        self._choices: Choices = choices_of(pricer, goal)
        one_hot = np.eye(pricer.units.num_kinds, dtype=np.intp)[pricer.units.kinds]
        before = np.vstack((np.zeros(pricer.units.num_kinds, dtype=np.intp), np.cumsum(one_hot, axis=0)))
        self._summed: list[Counts] = [tuple(row) for row in before.tolist()]
        self._work = Work(pricer, self._choices, self._summed[-1])
        self._rooms: dict[tuple, Rooms] = {}
        self._weighed: dict[tuple, NDArray[np.float64]] = {}

    def run(self, *, accept: Callable[[Mesh], bool] = _any) -> Result:
        """The best layout of every set of devices, and the best of all; sets of different kinds share the effort.

        What a set leaves of its part is for those that follow; what it takes more is not taken from theirs.

        Args:
            accept: which meshes are looked at, by their degrees before the data axis is split into shards.
        """
        state = _State()
        sets = list(device_sets(self._pricer.hosts, self._goal))
        for place, devices in enumerate(sets):
            apart = len(sets) if len(self._pricer.hosts) > 1 else 1
            part = self._effort.total / apart
            effort = max(part * min(place + 1, apart), state.work + part * (apart > 1))
            self._of_devices(devices, state, effort, accept=accept)
        gap = max(0.0, 1 - state.open / state.value) if state.best is not None and state.open < state.value else 0.0
        return Result(
            best=state.best, gap=gap, considered=state.considered, priced=state.priced, front=_front(state.seen)
        )

    def solve(self, frame: Frame) -> Found | None:
        """The best stages of one frame."""
        solved = self.stages(frame).solve(float("inf"), self._effort)
        if solved.layout is None or solved.price is None:
            return None
        return Found(layout=solved.layout, price=solved.price)

    def _of_devices(self, devices: Devices, state: _State, effort: float, *, accept: Callable[[Mesh], bool]) -> None:
        """Looks at all layouts on some devices: what looks best first, nothing whose bound is above the best found.

        Frames are probed with their most even stages. Where devices are of one kind, bounds are close: once probes have
        stopped finding anything better, all that is left is bounded first, then probed. What that leaves comes last.
        """
        heap = _Heap(state)
        left, later, idle = list[StageSearch](), list[StageSearch](), 0
        for bound, shape in self._bounded(devices, state, accept=accept):
            heap.push(bound, bound * (1 + (shape.mesh.pp - 1) / (8 * shape.micro_batches)), shape)
        for bound, item in heap:
            if state.work > effort * (1 if state.best is not None else _PATIENCE):
                state.open = min(state.open, bound, heap.least)
                self._dive(heap.deepest(_DIVES), state)
                break
            if isinstance(item, Layout):
                self._split_up(item, heap, state)
            elif isinstance(item, Frame):
                self._bound(bound, item, heap, state)
            elif idle >= _IDLE and len(devices.kinds) == 1:
                later.append(item)
            elif item.may_beat(state.value):
                before = state.value
                self._probe(item, state, left)
                idle = 0 if state.value < before else idle + 1
        effort *= _PROBED if later else 1.0
        for item in later:
            if not item.may_beat(state.value):
                continue
            if state.work <= effort:
                self._probe(item, state, left)
            else:
                state.open = min(state.open, item.least(state.value))
        self._finish(left, state, effort)

    def _dive(self, searches: Sequence[StageSearch], state: _State) -> None:
        """Probes frames at the end of the effort: their bounds count among what is left open already."""
        for search in searches:
            if search.may_beat(state.value):
                self._probe(search, state, [])

    def _probe(self, search: StageSearch, state: _State, left: list[StageSearch]) -> None:
        """Prices a frame's most even stages; keeps the frame where that leaves something open."""
        if self._solve(search, state, Effort(priced=1, visited=4 + 2 * search.num_stages), probing=True):
            left.append(search)

    def _split_up(self, shape: Layout, heap: "_Heap", state: _State) -> None:
        """Puts the frames of a shape where it was."""
        for low, frame in self._framed(shape, state.value):
            heap.push(low, low * (1 + bubble(frame)), frame)
            state.work += _FRAME
        state.work += _FRAME

    def _bound(self, bound: float, frame: Frame, heap: "_Heap", state: _State) -> None:
        """Puts what finds a frame's stages where it was, for each order of its kinds of devices.

        With parts in the hosts' memory a frame takes no less, so that it is looked at after itself.
        """
        if frame.layout.offload == self._choices.offloads[0]:
            for layout in offloaded(frame.layout, self._choices):
                other = replace(frame, layout=layout)
                if not may_hold(self._orders(layout), frame.form, self._weights(layout)[None]).all():
                    continue
                low = max(bound, self._least(other))
                heap.push(low, low * (1 + bubble(frame)) * _AFTER_ITSELF, other)
        weights = self._weights(frame.layout)[None]
        for one in arranged(frame):
            if not self._rooms_of(one.layout).hold(frame.form, weights).all():
                continue
            search = self.stages(one)
            state.work += _BOUND * len(dict.fromkeys(frame.layout.replicas[0].kinds))
            if search.may_beat(state.value):
                estimate = search.estimate if state.best is not None else 0.0  # any that fits is wanted first
                heap.push(max(bound, search.bound), estimate, search)

    def _least(self, frame: Frame) -> float:
        """A lower bound on a frame's value: work with its exchange, the least bubble, and what follows."""
        layout, pricer = frame.layout, self._pricer
        work, ahead, shared = self._work.of(layout)
        sent = least_sent(pricer, layout)
        span = least_step(
            frame.form, work + 2 * (frame.num_stages - 1) * sent, ahead=ahead, after=pricer.least_after(layout)
        )  # fmt: skip
        least = max(span, layout.micro_batches * shared)
        draw, held = self._work.drawn(layout), self._held(layout)
        return self._aim.least(least * pricer.least_factor, *draw, peak=held, steps=layout.steps_over_exact)

    def _finish(self, left: list[StageSearch], state: _State, effort: float) -> None:
        """Searches what probing left open, as far as the effort goes; the rest keeps its bound."""
        for search in sorted(left, key=lambda one: one.bound):
            if not search.may_beat(state.value):
                continue
            if state.work <= effort:
                self._solve(search, state, self._effort, probing=False)
            else:
                state.open = min(state.open, search.least(state.value))

    def _solve(self, search: StageSearch, state: _State, effort: Effort, *, probing: bool) -> bool:
        """Looks for better stages; whether something was left that may be better still."""
        solved = search.solve(state.value, effort)
        state.priced += solved.tried
        state.seen += [Found(layout=layout, price=price) for layout, price in solved.seen]
        if solved.layout is not None and solved.price is not None:
            state.best = Found(layout=solved.layout, price=solved.price)
            state.value = self._aim.value(solved.price)
        state.work += 1 + solved.visited + solved.tried * search.num_stages
        if not probing and solved.open < state.value:
            state.open = min(state.open, search.least(state.value))
        return solved.open < state.value * (1 - ROUNDING)

    def _framed(self, shape: Layout, best: float) -> Iterator[tuple[float, Frame]]:
        """Frames of a shape with a lower bound: work with its exchange and the least bubble; weights that may fit.

        Args:
            best: what the bound must be below.
        """
        pricer, draw = self._pricer, self._work.drawn(shape)
        known: dict[object, tuple[float, float, float]] = {}
        sent = least_sent(pricer, shape)
        for layout, ways in self._roomy(shape):
            shards = layout.mesh.dp_shard, layout.shards
            data = (*shards, layout.exchange) if layout.sharding == "parameters" else None
            key = data, layout.offload
            if key not in known:
                known[key] = self._work.of(layout)
            work, ahead, shared = known[key]
            after = pricer.least_after(layout)
            for schedule, stages in ways:
                form = form_of(layout, schedule, stages)
                least = least_step(form, work + 2 * (stages - 1) * sent, ahead=ahead, after=after)
                least = max(least, layout.micro_batches * shared)
                value = self._aim.least(
                    least * pricer.least_factor, *draw, peak=self._held(layout), steps=layout.steps_over_exact
                )  # fmt: skip
                if value < best * (1 - ROUNDING):
                    yield value, framed(layout, schedule, stages)

    def _roomy(self, shape: Layout) -> Iterator[tuple[Layout, list[tuple[Schedule, int]]]]:
        """Levels of sharding with what may fit of them; parts go to the hosts at once only where they must."""
        found = (with_shards(self._pricer, self._goal, one) for one in levels(shape, self._choices))
        listed = [(layout, *offloaded(layout, self._choices)) for layout in chain(*found)]
        fitting = iter(self._fitting(shape, list(chain(*listed))))
        for level in listed:
            here = next(fitting)
            if here:
                yield level[0], here
            for away in level[1:]:
                if ways := [way for way in next(fitting) if way not in here]:
                    yield away, ways

    def _fitting(self, shape: Layout, layouts: Sequence[Layout]) -> list[list[tuple[Schedule, int]]]:
        """The schedules, with numbers of stages, of each of a shape's layouts that may fit the memory."""
        ways = [list(schedules(one, self._choices)) for one in layouts]
        found: list[list[tuple[Schedule, int]]] = [[] for _ in layouts]
        for offload in dict.fromkeys(one.offload for one in layouts):
            places = [place for place, one in enumerate(layouts) if one.offload == offload]
            weights = np.array([self._weights(layouts[place]) for place in places])
            away = replace(shape, offload=offload) if offload != shape.offload else shape
            for way in dict.fromkeys(chain(*(ways[place] for place in places))):
                fits = may_hold(self._orders(away), form_of(shape, *way), weights)
                for place, held in zip(places, fits, strict=True):
                    if held and way in ways[place]:
                        found[place].append(way)
        return found

    def _weights(self, layout: Layout) -> NDArray[np.float64]:
        """Parameters, gradients and state of one unit of each kind (B)."""
        key = (
            layout.division, layout.sharding, layout.mesh.dp_shard, layout.offload, layout.micro_batches == 1,
            layout.exchange, layout.shards and (layout.shards, layout.replicas),
        )  # fmt: skip
        if key not in self._weighed:
            kinds = range(self._pricer.units.num_kinds)
            self._weighed[key] = np.array([self._pricer.weight_of(layout, kind) for kind in kinds])
        return self._weighed[key]

    def _held(self, layout: Layout) -> Bytes:
        """What the fullest worker holds at least, where that counts, with the same in the hosts' memory too (B)."""
        if self._aim.minimize != "memory":
            return 0
        least = min(self._pricer.weighs(one) for one in (layout, *offloaded(layout, self._choices)))
        return int(least * self._pricer.correction.memory / layout.mesh.pp)

    def _orders(self, layout: Layout) -> Iterator[Rooms]:
        """The rooms of a layout's workers, for each order of its kinds of devices."""
        return (self._rooms_of(one.layout) for one in arranged(Frame(layout=layout, num_stages=1)))

    def _rooms_of(self, layout: Layout) -> Rooms:
        how = layout.division, layout.mesh.cp, layout.kernels, layout.precision, layout.threads, layout.offload
        key = *how, layout.replicas, layout.micro_batches
        if key not in self._rooms:
            most = limits(self._pricer, self._goal, layout)
            self._rooms[key] = Rooms(self._pricer, layout, limits=most, recompute=self._goal.pins.recompute)
        return self._rooms[key]

    def _bounded(
        self, devices: Devices, state: _State, *, accept: Callable[[Mesh], bool]
    ) -> Iterator[tuple[float, Layout]]:
        """Shapes with a lower bound on their value: all work shared out evenly, without any exchange."""
        kind, draws = devices.kinds[0], list[tuple[Watts, Dollars]]()

        def worth(base: Layout, examples: float) -> bool:
            state.considered += 1
            if not draws:  # the same for all layouts of as many devices of a kind
                places = Replica(count=base.mesh.num_shares, kinds=(kind,) * base.mesh.pp, examples=examples)
                draws.append(self._pricer.draw(replace(base, replicas=(places,))))
            most = state.value * (1 - ROUNDING)
            return all(
                self._aim.least(least(base, kind, examples) * self._pricer.least_factor, *draws[0]) < most
                for least in (self._work.evenly, self._work.computed)
            )

        for shape in shapes(self._pricer, self._choices, devices, worth=worth):
            if not accept(shape.mesh):
                continue
            least = self._work.alone(shape)
            yield self._aim.least(least * self._pricer.least_factor, *self._work.drawn(shape)), shape

    def stages(self, frame: Frame) -> StageSearch:
        """What finds the stages of one frame, with its bounds."""
        recompute = "none" if keeps_all(frame.layout) else self._goal.pins.recompute
        most = limits(self._pricer, self._goal, frame.layout)
        return StageSearch(self._pricer, frame, self._aim, limits=most, recompute=recompute, summed=self._summed)


def _front(seen: list[Found]) -> tuple[Found, ...]:
    kept: list[Found] = []
    for item in sorted(seen, key=lambda one: (one.price.step, one.price.money, one.price.peak)):
        beaten = any(other.price.money <= item.price.money and other.price.peak <= item.price.peak for other in kept)
        if not beaten:
            kept.append(item)
    return tuple(kept)
