"""The best layout of all: shapes in the order of their bounds, until no bound is below the best price found."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush, nsmallest
from itertools import count

import numpy as np

from meshwright.cost import Mesh
from meshwright.cost.hybrid import HybridPricer, Layout, Least, Price, Replica
from meshwright.plan._goal import Goal
from meshwright.plan.search._aim import Aim
from meshwright.plan.search._bubble import bubble
from meshwright.plan.search._burden import Counts
from meshwright.plan.search._choices import Choices, Devices, choices_of, device_sets
from meshwright.plan.search._frame import WHOLE, Frame, arranged, keeps_all, offloaded, shapes
from meshwright.plan.search._limits import limits
from meshwright.plan.search._prospects import Bare, Prospects
from meshwright.plan.search._reordered import reaches_of, reordered
from meshwright.plan.search._stages import ROUNDING, Effort, StageSearch
from meshwright.plan.search._work import Work
from meshwright.units import Dollars, Watts

# What is looked at, in partial choices of a pipeline: making a frame, bounding one; a price counts once per stage.
_FRAME, _BOUND = 0.1, 2.0
_AFTER_ITSELF = 1.05  # how much later a frame is looked at with parts in the hosts' memory
_AFTER_DOUBLINGS = 1.5  # how much later with 3, 5, 6, … stages on a worker than with 1, 2, 4, …
_IDLE = 12  # probes in a row that find nothing better, after which everything is bounded first
_PROBED = 0.25  # of the effort, until which it is probed then
_LATE = 0.1  # of the effort, for which it is probed then at least
_DIVES = 16  # frames that are probed yet when the effort is spent
_EXACT = 1500.0  # of the effort, within which everything is looked at that could be better at all
_WORTHWHILE = 0.01  # by how much it has to be better after that; the rest counts in the gap
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

    @property
    def target(self) -> float:
        """What is to be beaten: the best found, in large searches after a while by as much as is worth the time."""
        return self.value if self.work <= _EXACT else self.value * (1 - _WORTHWHILE)

    @property
    def most(self) -> float:
        """The least value that is not worth looking at."""
        return self.target * (1 - ROUNDING)


class _Heap:
    """What is left to look at, by how good it looks; what cannot be better than the best found is dropped."""

    def __init__(self, state: _State) -> None:
        self._state = state
        self._items: list[tuple[float, int, float, Layout | Bare | Frame | StageSearch]] = []
        self._order = count()

    def push(self, bound: float, estimate: float, item: Layout | Bare | Frame | StageSearch) -> None:
        self._state.considered += 1
        if bound < self._state.most:
            heappush(self._items, (estimate, next(self._order), bound, item))

    @property
    def least(self) -> float:
        """The lowest bound of what is left."""
        return min((bound for _, _, bound, _ in self._items), default=float("inf"))

    def deepest(self, number: int) -> list[StageSearch]:
        """Of the frames whose stages could be looked for at once, so many of those that look best."""
        found = [item for item in self._items if isinstance(item[3], StageSearch)]
        return [search for *_, search in nsmallest(number, found) if isinstance(search, StageSearch)]

    def __iter__(self) -> Iterator[tuple[float, Layout | Bare | Frame | StageSearch]]:
        while self._items:
            _, _, bound, item = heappop(self._items)
            if bound < self._state.most:
                yield bound, item


def _estimate(low: float, frame: Frame) -> float:
    """When a frame is looked at: with the bubble, and those with doublings of stages on a worker before all others."""
    chunks = frame.num_stages // frame.form.num_workers
    return low * (1 + bubble(frame.form)) * (_AFTER_DOUBLINGS if chunks & (chunks - 1) else 1.0)


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
        self._least = Least(pricer)
        self._work = Work(pricer, self._choices, self._summed[-1], least=self._least)
        self._prospects = Prospects(pricer, goal, aim, choices=self._choices, work=self._work)

    def run(self, *, accept: Callable[[Mesh], bool] = _any) -> Result:
        """The best layout of every set of devices, and the best of all.

        Sets of different kinds share the effort by how many devices they have: more of them can do more. What a set
        leaves of its part is for those that follow; what it takes more is not taken from theirs.

        Args:
            accept: which meshes are looked at, by their degrees before the data axis is split into shards.
        """
        state = _State()
        sets = list(device_sets(self._pricer.hosts, self._goal))
        several, every = len(self._pricer.hosts) > 1, sum(devices.total for devices in sets)
        until = 0.0
        for devices in sets:
            part = self._effort.total * (devices.total / every if several else 1.0)
            until += part if several else 0.0
            self._of_devices(devices, state, max(until, state.work + part) if several else part, accept=accept)
        least = min(state.open, state.target)  # what the target left out was never listed as open
        gap = max(0.0, 1 - least / state.value) if state.best is not None and least < state.value else 0.0
        return Result(
            best=state.best, gap=gap, considered=state.considered, priced=state.priced, front=front_of(state.seen)
        )

    def solve(self, frame: Frame) -> Found | None:
        """The best stages of one frame."""
        solved = self.stages(frame).solve(float("inf"), self._effort)
        if solved.layout is None or solved.price is None:
            return None
        return Found(layout=solved.layout, price=solved.price)

    def _of_devices(self, devices: Devices, state: _State, effort: float, *, accept: Callable[[Mesh], bool]) -> None:
        """Looks at all layouts on some devices: what looks best first, nothing whose bound is above the best found.

        Every shape is looked at with its axes in one order first: what that finds leaves little of the other orders.
        Frames are probed with their most even stages. Where devices are of one kind, bounds are close: once probes have
        stopped finding anything better, all that is left is bounded first, then probed. What that leaves comes last.
        """
        heap, left = _Heap(state), list[StageSearch]()
        listed = list(self._bounded(devices, state, accept=accept))
        for bound, shape in listed:
            heap.push(bound, bound * (1 + (shape.mesh.pp - 1) / (8 * shape.micro_batches)), shape)
        late = self._look(devices, heap, state, left, effort)
        for bound, shape in listed:
            if state.work > effort:
                state.open = min(state.open, bound)
            elif bound < state.most:
                self._reorder(shape, heap, state)
        late = self._look(devices, heap, state, left, effort) or late
        self._finish(left, state, effort * (_PROBED if late else 1.0))

    def _look(
        self, devices: Devices, heap: "_Heap", state: _State, left: list[StageSearch], effort: float
    ) -> bool:  # fmt: skip
        """Looks at all that is in a heap, as far as the effort goes; whether some was bounded before it was probed."""
        later, idle = list[StageSearch](), 0
        for bound, item in heap:
            if state.work > effort * (1 if state.best is not None else _PATIENCE):
                state.open = min(state.open, bound, heap.least)
                self._dive(heap.deepest(_DIVES), state)
                break
            if isinstance(item, Layout):
                self._look_closer(item, heap, state)
            elif isinstance(item, Bare):
                self._split_up(item, heap, state)
            elif isinstance(item, Frame):
                self._bound(bound, item, heap, state)
            elif idle >= _IDLE and len(devices.kinds) == 1:
                later.append(item)
            elif item.may_beat(state.target):
                before = state.value
                self._probe(item, state, left)
                idle = 0 if state.value < before else idle + 1
        self._probe_late(later, state, left, max(effort * _PROBED, state.work + effort * _LATE))
        return bool(later)

    def _probe_late(
        self, searches: Sequence[StageSearch], state: _State, left: list[StageSearch], effort: float
    ) -> None:  # fmt: skip
        """Probes what was left until everything was bounded, as far as the effort goes; the rest keeps its bound."""
        for item in searches:
            if not item.may_beat(state.target):
                continue
            if state.work <= effort:
                self._probe(item, state, left)
            else:
                state.open = min(state.open, item.least(state.value))

    def _dive(self, searches: Sequence[StageSearch], state: _State) -> None:
        """Probes frames at the end of the effort: their bounds count among what is left open already."""
        for search in searches:
            if search.may_beat(state.target):
                self._probe(search, state, [])

    def _probe(self, search: StageSearch, state: _State, left: list[StageSearch]) -> None:
        """Prices a frame's most even stages; keeps the frame where that leaves something open."""
        if self._solve(search, state, Effort(priced=1, visited=4 + 2 * search.num_stages), probing=True):
            left.append(search)

    def _look_closer(self, shape: Layout, heap: "_Heap", state: _State) -> None:
        """Puts a shape back by a closer bound: most never come to be split up."""
        bare = self._prospects.of_shape(shape, state.most)
        if bare is not None:
            heap.push(bare.bound, bare.estimate, bare)
        state.work += _FRAME

    def _reorder(self, shape: Layout, heap: "_Heap", state: _State) -> None:
        """Puts a shape's other orders where it was: as shapes where islands are in question, or else as frames.

        What fits the memory, and what that takes, is the same in all orders; islands are not.
        """
        if not reaches_of(self._pricer, self._choices, shape):
            for other in reordered(self._pricer, shape, self._choices):
                self._look_closer(other, heap, state)
            return
        if self._aim == Aim(minimize=self._aim.minimize) and (state.best is None or self._aim.minimize == "memory"):
            return
        for low, found in self._prospects.other_orders(shape, state.most):
            estimate = found.estimate if isinstance(found, Bare) else _estimate(low, found)
            heap.push(low, estimate, found)
            state.work += _FRAME
        state.work += _FRAME

    def _split_up(self, bare: Bare, heap: "_Heap", state: _State) -> None:
        """Puts the frames of a shape where it was; of those with parameters in shards all in one yet."""
        if bare.levels == WHOLE:
            spread = self._prospects.in_shards(bare, state.most)
            if spread is not None:
                heap.push(spread.bound, spread.estimate, spread)
        for low, frame in self._prospects.frames(bare, state.most):
            heap.push(low, _estimate(low, frame), frame)
            state.work += _FRAME
        state.work += _FRAME

    def _bound(self, bound: float, frame: Frame, heap: "_Heap", state: _State) -> None:
        """Puts what finds a frame's stages where it was, for each order of its kinds of devices.

        With parts in the hosts' memory a frame takes no less, so that it is looked at after itself.
        """
        if frame.layout.offload == self._choices.offloads[0]:
            for layout in offloaded(frame.layout, self._choices):
                other = replace(frame, layout=layout)
                low = max(bound, self._prospects.of_frame(other, state.most))
                heap.push(low, _estimate(low, frame) * _AFTER_ITSELF, other)
        weights = self._prospects.weights(frame.layout)[None]
        for one in arranged(frame):
            if not self._prospects.rooms(one.layout).hold(frame.form, weights).all():
                continue
            search = self.stages(one)
            state.work += _BOUND * len(dict.fromkeys(frame.layout.replicas[0].kinds))
            if search.may_beat(state.target):
                estimate = _estimate(search.bound, one) if state.best is not None else 0.0  # any that fits is wanted
                heap.push(max(bound, search.bound), estimate, search)

    def _finish(self, left: list[StageSearch], state: _State, effort: float) -> None:
        """Searches what probing left open, as far as the effort goes; the rest keeps its bound."""
        for search in sorted(left, key=lambda one: one.bound):
            if not search.may_beat(state.target):
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
        return solved.open < state.most

    def _bounded(
        self, devices: Devices, state: _State, *, accept: Callable[[Mesh], bool]
    ) -> Iterator[tuple[float, Layout]]:
        """Shapes with a lower bound on their value: all work shared out evenly, without any exchange."""
        kind, draws = devices.kinds[0], list[tuple[Watts, Dollars]]()
        on_cpu, hopeless = self._pricer.hosts[kind].device.kind == "cpu", set[tuple]()

        def worth(base: Layout, examples: float) -> bool:
            state.considered += 1
            mesh, count = base.mesh, base.micro_batches
            # accelerators that share out as much work as evenly take equally long
            parts = (count, mesh.pp) if on_cpu else count / mesh.pp
            alike = mesh.tp, mesh.cp, mesh.ep, base.sequence, base.kernels, base.precision, examples, parts
            if alike in hopeless:
                return False
            if not draws:  # the same for all layouts of as many devices of a kind
                places = Replica(count=mesh.num_shares, kinds=(kind,) * mesh.pp, examples=examples)
                draws.append(self._pricer.draw(replace(base, replicas=(places,))))
            most = state.most
            if self._aim.least(self._work.evenly(base, kind, examples), *draws[0]) >= most:
                hopeless.add(alike)
                return False
            return self._aim.least(self._work.computed(base, kind, examples), *draws[0]) < most

        for shape in shapes(self._pricer, self._choices, devices, worth=worth):
            if not accept(shape.mesh):
                continue
            yield self._aim.least(self._work.alone(shape), *self._work.drawn(shape)), shape

    def stages(self, frame: Frame) -> StageSearch:
        """What finds the stages of one frame, with its bounds."""
        recompute = "none" if keeps_all(frame.layout) else self._goal.pins.recompute
        most = limits(self._pricer, self._goal, frame.layout)
        return StageSearch(
            self._pricer, frame, self._aim, least=self._least, limits=most, recompute=recompute, summed=self._summed
        )


def front_of(seen: Iterable[Found]) -> tuple[Found, ...]:
    """Those that no other beats in time, money and memory at once, fastest first."""
    kept: list[Found] = []
    for item in sorted(seen, key=lambda one: (one.price.step, one.price.money, one.price.peak)):
        beaten = any(other.price.money <= item.price.money and other.price.peak <= item.price.peak for other in kept)
        if not beaten:
            kept.append(item)
    return tuple(kept)
