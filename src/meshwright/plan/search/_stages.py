"""The stages of a frame: where to cut and what to compute again, memory and time together.

Branch and bound over the stages in order. A partial choice is bounded by the work of every worker placed so far, after
the way to it and before the way back, and by what the rest must at least take; it ends where the workers that are left
cannot take the blocks that are left in the time that is left. Complete choices are priced in full.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from meshwright.cost.hybrid import HybridPricer, Layout, Least, Price
from meshwright.plan.search._aim import Aim
from meshwright.plan.search._bubble import fillings, least_shared, least_shares, least_step, may_interleave
from meshwright.plan.search._burden import Burdens, Counts
from meshwright.plan.search._frame import Frame
from meshwright.plan.search._relaxed import Times, block_times, capacity, least_bottleneck, least_total, loaded
from meshwright.plan.search._rooms import least_blocks
from meshwright.plan.search._span import SpanInStep
from meshwright.plan.search._walk import Walk
from meshwright.units import Bytes, Seconds

ROUNDING = 1e-9  # what is not better by more than rounding is not better
_HALVINGS = 9
_DOUBLINGS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How much is looked at in one frame before the rest is left with its bound.

    Args:
        priced: layouts priced in full.
        visited: partial choices.
        total: partial choices over all frames, and what making frames is worth in them, before the rest is bounded.
    """

    priced: int = 40
    visited: int = 400
    total: int = 40_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Solved:
    """The best stages of a frame.

    Args:
        layout: whole; None where nothing fits or nothing beats the bound that was given.
        price: of it.
        open: a lower bound on the value of what was not looked at; infinite where everything was.
        tried: layouts priced.
        visited: partial choices looked at.
        seen: every layout priced that fits, with its price.
    """

    layout: Layout | None = None
    price: Price | None = None
    open: float = float("inf")
    tried: int = 0
    visited: int = 0
    seen: tuple[tuple[Layout, Price], ...] = ()


class StageSearch:
    """Finds the best stages of one frame.

    Args:
        pricer: prices layouts.
        frame: everything else.
        aim: what is made small.
        least: what layouts take beside their work.
        limits: bytes that a worker may use, by kind of training host.
        recompute: `none` and `all` as pinned; None: as needed.
        summed: units of each kind before every unit, and in all.
    """

    def __init__(
        self, pricer: HybridPricer, frame: Frame, aim: Aim, *, least: Least, limits: tuple[Bytes, ...],
        recompute: str | None, summed: list[Counts],
    ) -> None:  # fmt: skip
        self._pricer, self._frame, self._aim, self._limits = pricer, frame, aim, limits
        layout = replace(frame.layout, bounds=(0,) * frame.num_stages)
        self._layout, self._form, thrifty = layout, layout.form, aim.minimize == "memory"
        self._burdens = Burdens(pricer, layout, limits=limits, recompute=recompute, thrifty=thrifty)
        self._summed = summed
        self._usable = sorted(pricer.units.cuts)
        both = self._burdens.forward + self._burdens.backward
        fastest = both.min(axis=1).max(axis=0)
        self._fastest: list[float] = fastest.tolist()
        self._until: list[float] = (np.array(summed) @ fastest).tolist()
        split = self._form.schedule in ("zero_bubble", "asynchronous")
        self._way: list[list[float]] = (self._burdens.forward if split else both).min(axis=0).tolist()
        # A micro-batch passes through every unit; the fastest worker of the slowest replica bounds its time.
        sent = least.sent(layout, frame.num_stages)
        self._work = float((both @ np.array(summed[-1])).min(axis=1).max()) + 2 * sum(sent)
        units, each = np.array(summed[-1], dtype=np.float64), np.ones(layout.mesh.pp)
        self._shared = max(least_shared(part, each, units) for part in both)
        self._draw, self._steps = pricer.draw(layout), layout.steps_over_exact
        self._tables = {
            kind: block_times(pricer, layout, self._burdens, kind, limits=limits, recompute=recompute)
            for kind, block in enumerate(self._burdens.is_block) if block and self._summed[-1][kind]
        }  # fmt: skip
        after, mean = least.after(layout), units / layout.mesh.pp
        window = float((both @ mean).max())
        self._after, self._spared = after.of_mean(mean, window), after.spared
        rows, ahead = both.reshape(-1, len(units)), self._burdens.forward.reshape(-1, len(units))
        self._ahead = fillings(least_shares(ahead, rows), rows.min(axis=0) * units, after.rate(rows.max(axis=0)))
        self._loads = {
            kind: loaded(table, after, kind, count=layout.micro_batches) for kind, table in self._tables.items()
        }
        self._span = self._around(least, once=after.once)
        self._weighs = pricer.weighs(layout) * pricer.correction.memory
        self.bound = self._value(self._least_step()) if self._may_fit() else float("inf")
        self._walk: Walk | None = None
        if 1 < layout.mesh.pp == frame.num_stages and np.isfinite(self.bound):
            self._walk = Walk(
                pricer, layout, self._burdens, limits=limits, recompute=recompute, sent=sent, after=after,
                hiding=after.hides(mean, window),
            )  # fmt: skip

    def _around(self, least: Least, *, once: Seconds) -> SpanInStep:
        busy = self._form.micro_batches * max(self._work / self._form.num_workers, self._shared)
        return SpanInStep(
            busy=busy, waited=least.waited, overhead=least.overhead(self._layout) + once,
            factor=self._pricer.correction.time,
        )  # fmt: skip

    @property
    def num_stages(self) -> int:
        """Of the frame."""
        return self._frame.num_stages

    def may_beat(self, value: float) -> bool:
        """Whether stages may exist that are better than a value."""
        if self.bound >= value * (1 - ROUNDING):
            return False
        step = self._longest(value)
        return not np.isfinite(step) or self._reaches(step)

    def least(self, value: float) -> float:
        """A lower bound on what is better than a value, closer than `bound`."""
        high = self._longest(value)
        if not np.isfinite(high) or self._aim.minimize == "memory":
            return self.bound
        low = self._least_step()
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if self._reaches(middle) else (middle, high)
        return max(self.bound, self._value(low))

    def _reaches(self, step: Seconds) -> bool:
        """Whether stages may exist whose step is no longer."""
        if self._walk is not None:
            return self._walk.reaches(self._span.longest(step), busy=self._span.within(step))
        if self._form.schedule != "interleaved" or len(self._tables) != 1:
            return True
        ((kind, table),) = self._tables.items()
        blocks = float(self._fastest[kind]) * self._summed[-1][kind]
        within = self._span.within(step)
        again = least_total(table, within / self._form.micro_batches) - blocks
        return may_interleave(
            self._form, self._work + max(0.0, again), within, after=self._after, waited=self._span.waited
        )  # fmt: skip

    def _may_fit(self) -> bool:
        """Whether parameters, gradients and state, shared out evenly, are within the limits."""
        return self._weighs <= sum(
            max(self._limits[replica.kinds[rank]] for replica in self._layout.replicas)
            for rank in range(self._form.num_workers)
        )

    def _least_step(self) -> Seconds:
        """A lower bound on the step: the bottleneck of the blocks alone, and all work with the bubble it must have."""
        count = self._form.micro_batches
        if self._form.num_workers == 1:
            burden = self._burdens.of(0, (self._summed[-1],))
            return self._span.step_around(count * burden.busy + self._after) if burden is not None else float("inf")
        least = least_step(
            self._form, self._work, ahead=self._ahead, after=self._after, spared=self._spared,
            waited=self._span.waited,
        )  # fmt: skip
        busiest = (count * self._bottleneck(table) for table in self._loads.values())
        return self._span.step_around(max(least, count * self._shared, *busiest))

    def solve(self, best: float, effort: Effort) -> Solved:
        """The best stages whose value is below `best`.

        Args:
            effort: how much is looked at.
        """
        state = _Progress(best, effort)
        if self.bound >= best * (1 - ROUNDING):
            return Solved()
        single = self._frame.num_stages == len(self._pricer.units.cuts) + 1
        for bounds, again in self._complete(state):
            if state.tried >= effort.priced and not single:
                state.cut_short = True
                break
            state.tried += 1
            layout = replace(self._frame.layout, bounds=bounds, recomputed=again)
            price = self._pricer.price(layout)
            if not (self._fits(layout, price) and self._aim.allows(price)):
                continue
            state.seen.append((layout, price))
            if self._aim.value(price) < state.best * (1 - ROUNDING):
                state.best, state.layout, state.price = self._aim.value(price), layout, price
        unseen = self.bound if state.cut_short else float("inf")
        return Solved(
            layout=state.layout, price=state.price, open=unseen, tried=state.tried, visited=state.visited,
            seen=tuple(state.seen),
        )  # fmt: skip

    def _complete(self, state: "_Progress") -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Bounds and units computed again of every complete choice worth a price."""
        root = _Partial(bounds=(0,), chosen=(), before=0.0, step=0.0)
        stack = [self._extended(root, state)]
        while stack:
            partial = next(stack[-1], None)
            if partial is None:
                stack.pop()
                continue
            if len(partial.chosen) == self._frame.num_stages:
                yield partial.bounds, self._units(partial)
                continue
            state.visited += 1
            if state.visited > state.effort.visited and self._frame.num_stages < len(self._pricer.units.cuts) + 1:
                state.cut_short = True
                return
            stack.append(self._extended(partial, state))

    def _extended(self, partial: "_Partial", state: "_Progress") -> Iterator["_Partial"]:
        """One stage more, the most even first."""
        place, low = len(partial.chosen), partial.bounds[-1]
        stages, workers = self._frame.num_stages, self._form.num_workers
        last = place == stages - 1
        left = stages - place - 1
        rank, final = place % workers, place >= stages - workers
        reach = self._reach(place, state) if stages == workers else None
        for end in self._ends(place, low, left):
            counts = tuple(after - before for after, before in zip(self._summed[end], self._summed[low], strict=True))
            if reach is not None and any(
                self._summed[-1][kind] - self._summed[end][kind] > most for kind, most in reach
            ):
                continue
            mine = (*partial.chosen[rank::workers], counts)
            busy = self._burdens.busy(rank, mine)
            if final:
                burden = self._burdens.of(rank, mine)
                if burden is None:
                    continue
                busy = burden.busy
            first_round = place < workers
            own = max(partial.step, self._form.micro_batches * busy + (partial.before if first_round else 0.0))
            way = sum(n * time for n, time in zip(counts, self._way[rank], strict=True) if n) if first_round else 0.0
            before = partial.before + way
            rest = self._until[-1] - self._until[end]
            if stages == workers and left:
                own = max(own, before + self._form.micro_batches * rest / left)
            if self._value(self._span.step_of(own)) < state.best * (1 - ROUNDING):
                bounds = partial.bounds if last else (*partial.bounds, end)
                yield _Partial(bounds=bounds, chosen=(*partial.chosen, counts), before=before, step=own)

    def _reach(self, place: int, state: "_Progress") -> list[tuple[int, int]]:
        """How many blocks of each kind the workers after a place can take before the step is as long as the best."""
        if state.reach is None or state.reach_best != state.best:
            step = self._span.within(self._longest(state.best)) / self._form.micro_batches
            state.reach_best = state.best
            state.reach = {
                kind: np.cumsum(capacity(table, step)[::-1])[::-1].tolist() for kind, table in self._loads.items()
            }
        after = place + 1
        return [(kind, row[after] if after < len(row) else 0) for kind, row in state.reach.items()]

    def _longest(self, value: float) -> Seconds:
        """The step at which the value is reached; the limits' where the value does not depend on it."""
        power, price = self._draw
        each = {"time": 1.0, "cost": price / 3600, "energy": power, "memory": 0.0}[self._aim.minimize]
        per_second = self._steps * each
        return value / per_second if per_second and np.isfinite(value) else float("inf")

    def _ends(self, place: int, low: int, left: int) -> list[int]:
        """Legal ends of a stage that begins with a unit: nearest to the guide, or the most even, first."""
        size = len(self._summed) - 1
        if not left:
            return [size]
        first = bisect_right(self._usable, low)
        usable = self._usable[first : len(self._usable) - left + 1]
        if self._guide:
            return sorted(usable, key=lambda end: abs(end - self._guide[place]))
        wanted = self._until[low] + (self._until[size] - self._until[low]) / (left + 1)
        return sorted(usable, key=lambda end: abs(self._until[end] - wanted))

    def _bottleneck(self, table: Times) -> Seconds:
        """Of a micro-batch's blocks of a kind (s); where all blocks are of one kind, every stage has one."""
        least = least_blocks(self._form) if len(self._tables) == 1 else np.zeros(self._form.num_workers)
        return least_bottleneck(table, least.astype(np.intp))

    @cached_property
    def _guide(self) -> list[float]:
        """Where stages end if unequal workers take what they can in the least time; empty for equal ones."""
        if not any(len(set(one.kinds)) > 1 for one in self._layout.replicas) or not np.isfinite(self.bound):
            return []
        if self._walk is not None:
            return [float(end) for end in self._walk.ends(self._shortest(self._walk))]
        if len(self._tables) != 1:
            return []
        ((kind, table),) = self._tables.items()
        most = capacity(table, self._bottleneck(table)).astype(np.float64)
        each = np.tile(most, self._frame.num_stages // len(most))
        first = self._summed.index(next(row for row in self._summed if row[kind])) - 1
        return (first + np.cumsum(each) / each.sum() * self._summed[-1][kind]).tolist()

    def _shortest(self, walk: Walk) -> Seconds:
        """The least time in which stages may be done, to a thousandth or so; a long one where none may."""
        low = high = self._span.within(self._least_step())
        for _ in range(_DOUBLINGS):
            if walk.reaches(high):
                break
            low, high = high, 2 * high
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if walk.reaches(middle) else (middle, high)
        return high

    def _units(self, partial: "_Partial") -> tuple[int, ...]:
        """The first units of every stage, as many of each kind as are computed again."""
        workers, kinds = self._form.num_workers, self._pricer.units.kinds
        ends = (*partial.bounds[1:], len(kinds))
        found: list[int] = []
        for rank in range(workers):
            burden = self._burdens.of(rank, partial.chosen[rank::workers])
            assert burden is not None, rank
            for chunk, again in enumerate(burden.again):
                left, place = list(again), rank + chunk * workers
                for unit in range(partial.bounds[place], ends[place]):
                    if left[kinds[unit]]:
                        left[kinds[unit]] -= 1
                        found.append(unit)
        return tuple(sorted(found))

    def _fits(self, layout: Layout, price: Price) -> bool:
        """Whether every worker stays within its own device's limit."""
        replicas = self._layout.replicas
        if len(replicas) == 1:
            held = zip(price.memory, replicas[0].kinds, strict=True)
            return all(items.peak <= self._limits[kind] for items, kind in held)
        return all(items.peak <= self._limits[kind] for _, kind, items in self._pricer.held(layout))

    def _value(self, step: Seconds) -> float:
        peak = self._weighs / self._form.num_workers
        return self._aim.least(step, *self._draw, peak=peak, steps=self._steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Partial:
    """The first stages: their bounds, units by kind, the way through them and a bound on the step (s)."""

    bounds: tuple[int, ...]
    chosen: tuple[Counts, ...]
    before: Seconds
    step: Seconds


@dataclass(slots=True)
class _Progress:
    """What was found so far, and how much was looked at."""

    best: float
    effort: Effort
    layout: Layout | None = None
    price: Price | None = None
    tried: int = 0
    visited: int = 0
    cut_short: bool = False
    reach: dict[int, list[int]] | None = None
    reach_best: float = float("nan")
    seen: list[tuple[Layout, Price]] = field(default_factory=list)
