"""The best layout of all: shapes in the order of their bounds, until no bound is below the best price found."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import count

import numpy as np
from numpy.typing import NDArray

from meshwright.cost import Mesh
from meshwright.cost.hybrid import Form, HybridPricer, Layout, Price, Replica
from meshwright.cost.memory import usable_memory
from meshwright.plan._goal import Goal
from meshwright.plan.search._aim import Aim
from meshwright.plan.search._bubble import least_share, least_shared, least_step
from meshwright.plan.search._burden import Counts
from meshwright.plan.search._frame import (
    Choices,
    Devices,
    Frame,
    arranged,
    choices_of,
    device_sets,
    framed,
    levels,
    offloaded,
    schedules,
    shapes,
)
from meshwright.plan.search._stages import ROUNDING, Effort, StageSearch, bubble, least_sent
from meshwright.units import Bytes, Dollars, Seconds, Watts

# What is looked at, in partial choices of a pipeline: making a frame, bounding one; a price counts once per stage.
_FRAME, _BOUND = 0.1, 2.0
_AFTER_ITSELF = 1.05  # how much later a frame is looked at with parts in the hosts' memory
_IDLE = 12  # probes in a row that find nothing better, after which everything is bounded first
_PROBED = 0.25  # of the effort, until which it is probed then
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
        self._computed: dict[tuple, tuple[Seconds, float]] = {}
        self._draws: dict[tuple, tuple[Watts, Dollars]] = {}

    def run(self, *, accept: Callable[[Mesh], bool] = _any) -> Result:
        """The best layout of every set of devices, and the best of all; sets of different kinds share the effort.

        Args:
            accept: which meshes are looked at, by their degrees before the data axis is split into shards.
        """
        state = _State()
        sets = list(device_sets(self._pricer.hosts, self._goal))
        for place, devices in enumerate(sets):
            apart = (place + 1) / len(sets) if len(self._pricer.hosts) > 1 else 1.0
            self._of_devices(devices, state, self._effort.total * apart, accept=accept)
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
                low = max(bound, self._least(other))
                heap.push(low, low * (1 + bubble(frame)) * _AFTER_ITSELF, other)
        for one in arranged(frame):
            search = self.stages(one)
            state.work += _BOUND * len(dict.fromkeys(frame.layout.replicas[0].kinds))
            if search.may_beat(state.value):
                estimate = search.estimate if state.best is not None else 0.0  # any that fits is wanted first
                heap.push(max(bound, search.bound), estimate, search)

    def _least(self, frame: Frame) -> float:
        """A lower bound on a frame's value: work with its exchange, the least bubble, and what follows."""
        layout, pricer = frame.layout, self._pricer
        work, ahead, shared = self._work_of(layout)
        form = replace(layout, bounds=(0,) * frame.num_stages).form
        sent = least_sent(pricer, layout)
        span = least_step(
            form, work + 2 * (frame.num_stages - 1) * sent, ahead=ahead, after=pricer.least_after(layout)
        )  # fmt: skip
        least = max(span, layout.micro_batches * shared)
        return self._aim.least(least * pricer.least_factor, *self._drawn(layout), steps=layout.steps_over_exact)

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
        pricer, draw = self._pricer, self._drawn(shape)
        known: dict[object, tuple[float, float, float]] = {}
        sent = least_sent(pricer, shape)
        most = limits(pricer, self._goal, shape)
        room = sum(max(most[replica.kinds[rank]] for replica in shape.replicas) for rank in range(shape.mesh.pp))
        for layout in self._roomy(shape, room):
            key = (layout.mesh.dp_shard, layout.exchange) if layout.sharding == "parameters" else None
            if key not in known:
                known[key] = self._work_of(layout)
            work, ahead, shared = known[key]
            after = pricer.least_after(layout)
            for schedule, stages in schedules(layout, self._choices):
                form = Form(
                    schedule=schedule, num_workers=layout.mesh.pp, num_stages=stages, micro_batches=layout.micro_batches
                )
                least = least_step(form, work + 2 * (stages - 1) * sent, ahead=ahead, after=after)
                least = max(least, layout.micro_batches * shared)
                value = self._aim.least(least * pricer.least_factor, *draw, steps=layout.steps_over_exact)
                if value < best * (1 - ROUNDING):
                    yield value, framed(layout, schedule, stages)

    def _roomy(self, shape: Layout, room: float) -> Iterator[Layout]:
        """Levels of sharding whose weights may fit; parts go to the hosts at once only where they cannot stay.

        Args:
            room: of all workers of a pipeline together (B).
        """
        for layout in levels(shape, self._choices):
            fits = self._pricer.weighs(layout) * self._pricer.correction.memory <= room
            for one in (layout,) if fits else offloaded(layout, self._choices):
                if self._pricer.weighs(one) * self._pricer.correction.memory <= room:
                    yield one

    def _work_of(self, layout: Layout) -> tuple[float, float, float]:
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
            work = max(work, float((both @ self._summed[-1]).min()))
            ahead = min(ahead, least_share(np.array([one.forward for one in times]), both))
        return work, ahead, shared

    def _shared(self, times: NDArray[np.float64], replica: Replica) -> Seconds:
        """What the busiest worker of a pipeline takes at least for a micro-batch (s).

        Args:
            times: of units on each of its kinds of workers, as they come first.
        """
        workers = np.array([replica.kinds.count(kind) for kind in dict.fromkeys(replica.kinds)], dtype=np.float64)
        return least_shared(times, workers, np.array(self._summed[-1], dtype=np.float64))

    def _drawn(self, layout: Layout) -> tuple[Watts, Dollars]:
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
            least = self._least_computed(base, kind, examples)
            return self._aim.least(least * self._pricer.least_factor, *draws[0]) < state.value * (1 - ROUNDING)

        for shape in shapes(self._pricer, self._choices, devices, worth=worth):
            if not accept(shape.mesh):
                continue
            least = max(self._alone(shape, replica) for replica in shape.replicas)
            yield self._aim.least(least * self._pricer.least_factor, *self._drawn(shape)), shape

    def _alone(self, shape: Layout, replica: Replica) -> Seconds:
        """A step of a pipeline at least, by computing alone (s)."""
        kinds = dict.fromkeys(replica.kinds)
        if len(kinds) == 1:
            return self._least_computed(shape, replica.kinds[0], replica.examples)
        found = [self._pricer.pieces_for(shape, replica, kind) for kind in kinds]
        return shape.micro_batches * self._shared(np.array([one.forward + one.backward for one in found]), replica)

    def _least_computed(self, shape: Layout, kind: int, examples: float) -> Seconds:
        """A step of a pipeline of one kind of worker at least, by computing alone, under whichever schedule (s)."""
        work, ahead = self._computing(shape, kind, examples)
        found = (
            least_step(
                Form(schedule=schedule, num_workers=shape.mesh.pp, num_stages=stages,
                     micro_batches=shape.micro_batches), work, ahead=ahead,
            )
            for schedule, stages in schedules(shape, self._choices)
        )  # fmt: skip
        return min(found, default=float("inf"))

    def _computing(self, shape: Layout, kind: int, examples: float) -> tuple[Seconds, float]:
        """A micro-batch on all workers of a pipeline of one kind together (s), and the forward's least part of any."""
        mesh = shape.mesh
        processes = self._pricer.processes(shape, kind)
        key = mesh.tp, mesh.cp, mesh.ep, shape.sequence, shape.kernels, shape.precision, kind, examples, processes
        if key not in self._computed:
            pieces = self._pricer.pieces_for(shape, Replica(count=1, kinds=(kind,), examples=examples), kind)
            both = pieces.forward + pieces.backward
            self._computed[key] = float(both @ self._summed[-1]), least_share(pieces.forward, both)
        return self._computed[key]

    def stages(self, frame: Frame) -> StageSearch:
        """What finds the stages of one frame, with its bounds."""
        recompute = self._goal.pins.recompute
        most = limits(self._pricer, self._goal, frame.layout)
        return StageSearch(self._pricer, frame, self._aim, limits=most, recompute=recompute, summed=self._summed)


def limits(pricer: HybridPricer, goal: Goal, layout: Layout) -> tuple[Bytes, ...]:
    """Bytes that a worker may use, by kind of training host; as many as predictions of peaks can be depended on.

    The workers of a layout that stand on one processor share its machine's memory.
    """
    return tuple(
        min(goal.memory_limit or usable_memory(host.device), host.device.memory) // pricer.processes(layout, kind)[1]
        for kind, host in enumerate(pricer.hosts)
    )


def _front(seen: list[Found]) -> tuple[Found, ...]:
    kept: list[Found] = []
    for item in sorted(seen, key=lambda one: (one.price.step, one.price.money, one.price.peak)):
        beaten = any(other.price.money <= item.price.money and other.price.peak <= item.price.peak for other in kept)
        if not beaten:
            kept.append(item)
    return tuple(kept)
