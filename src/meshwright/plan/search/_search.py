"""The best layout of all: shapes in the order of their bounds, until no bound is below the best price found."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

import numpy as np

from meshwright.cost import Mesh
from meshwright.cost.hybrid import HybridPricer, Layout, Price
from meshwright.cost.memory import usable_memory
from meshwright.plan._goal import Goal
from meshwright.plan.search._aim import Aim
from meshwright.plan.search._frame import Choices, Devices, Frame, choices_of, device_sets, frames, shapes
from meshwright.plan.search._stages import ROUNDING, Effort, StageSearch, bubble
from meshwright.units import Bytes

# What is looked at, in partial choices of a pipeline of up to so many stages: making a frame, bounding one.
_FRAME, _BOUND, _STAGES = 0.1, 2.0, 8
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

    def run(self, *, accept: Callable[[Mesh], bool] = _any) -> Result:
        """The best layout of every set of devices, and the best of all.

        Args:
            accept: which meshes are looked at, by their degrees before the data axis is split into shards.
        """
        state = _State()
        for devices in device_sets(self._pricer.hosts, self._goal):
            self._of_devices(devices, state, accept=accept)
        gap = max(0.0, 1 - state.open / state.value) if state.best is not None and state.open < state.value else 0.0
        return Result(
            best=state.best, gap=gap, considered=state.considered, priced=state.priced, front=_front(state.seen)
        )

    def solve(self, frame: Frame) -> Found | None:
        """The best stages of one frame."""
        solved = self._stages(frame).solve(float("inf"), self._effort)
        if solved.layout is None or solved.price is None:
            return None
        return Found(layout=solved.layout, price=solved.price)

    def _of_devices(self, devices: Devices, state: _State, *, accept: Callable[[Mesh], bool]) -> None:
        """Looks at all layouts on some devices: what looks best first, nothing whose bound is above the best found.

        Every frame is probed with its most even stages; those that this leaves open are searched afterwards.
        """
        heap = _Heap(state)
        left: list[tuple[float, StageSearch]] = []
        for bound, shape in self._bounded(devices, accept=accept):
            heap.push(bound, bound * (1 + (shape.mesh.pp - 1) / (8 * shape.micro_batches)), shape)
        for bound, item in heap:
            if state.work > self._effort.total * (1 if state.best is not None else _PATIENCE):
                state.open = min(state.open, bound, heap.least)
                break
            if isinstance(item, Layout):
                for low, frame in self._framed(item):
                    heap.push(low, low * (1 + bubble(frame)), frame)
                    state.work += _FRAME
            elif isinstance(item, Frame):
                search = self._stages(item)
                state.work += _BOUND
                heap.push(max(bound, search.bound), search.estimate, search)
            elif self._solve(item, state, Effort(priced=1, visited=4 + 2 * item.num_stages), probing=True):
                left.append((bound, item))
        for bound, search in sorted(left, key=lambda pair: pair[0]):
            if bound >= state.value * (1 - ROUNDING):
                break
            if state.work <= self._effort.total:
                self._solve(search, state, self._effort, probing=False)
            else:
                state.open = min(state.open, bound)

    def _solve(self, search: StageSearch, state: _State, effort: Effort, *, probing: bool) -> bool:
        """Looks for better stages; whether something was left that may be better still."""
        solved = search.solve(state.value, effort)
        state.priced += solved.tried
        state.seen += [Found(layout=layout, price=price) for layout, price in solved.seen]
        if solved.layout is not None and solved.price is not None:
            state.best = Found(layout=solved.layout, price=solved.price)
            state.value = self._aim.value(solved.price)
        state.work += (1 + solved.visited) * max(1.0, search.num_stages / _STAGES)
        if not probing:
            state.open = min(state.open, solved.open)
        return solved.open < state.value * (1 - ROUNDING)

    def _framed(self, shape: Layout) -> Iterator[tuple[float, Frame]]:
        """Frames of a shape with a lower bound: work with its exchange, shared out evenly; weights that may fit."""
        pricer = self._pricer
        units = np.bincount(pricer.units.kinds, minlength=pricer.units.num_kinds)
        known: dict[object, float] = {}
        most = limits(pricer, self._goal, shape)
        room = [max(most[replica.kinds[rank]] for replica in shape.replicas) for rank in range(shape.mesh.pp)]
        for frame in frames(shape, self._choices):
            layout = frame.layout
            key = layout.mesh.dp_shard if layout.sharding == "parameters" else 0
            if key not in known:
                times = [[(one.forward + one.backward) @ units for _, one in pricer.kinds(layout, replica)]
                         for replica in layout.replicas]  # fmt: skip
                known[key] = max(float(min(one)) for one in times)
            if pricer.weighs(layout) * pricer.correction.memory <= sum(room):
                least = layout.micro_batches * known[key] / layout.mesh.pp * pricer.correction.time
                yield self._aim.least(least, *pricer.draw(layout)), frame

    def _bounded(self, devices: Devices, *, accept: Callable[[Mesh], bool]) -> Iterator[tuple[float, Layout]]:
        """Shapes with a lower bound on their value: all work shared out evenly, without any exchange."""
        pricer = self._pricer
        units = np.bincount(pricer.units.kinds, minlength=pricer.units.num_kinds)
        work: dict[tuple, float] = {}
        for shape in shapes(pricer, self._choices, devices):
            if not accept(shape.mesh):
                continue
            least = 0.0
            for replica in shape.replicas:
                key = (shape.division, shape.mesh.cp, replica.examples, replica.kinds, shape.kernels, shape.precision)
                if key not in work:
                    pieces = [pricer.pieces_for(shape, replica, kind) for kind in set(replica.kinds)]
                    work[key] = min(float((one.forward + one.backward) @ units) for one in pieces)
                least = max(least, shape.micro_batches * work[key] / shape.mesh.pp)
            yield self._aim.least(least * pricer.correction.time, *pricer.draw(shape)), shape

    def _stages(self, frame: Frame) -> StageSearch:
        recompute = self._goal.pins.recompute
        most = limits(self._pricer, self._goal, frame.layout)
        return StageSearch(self._pricer, frame, self._aim, limits=most, recompute=recompute)


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
