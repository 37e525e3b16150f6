"""What a pipeline's worker bears: the time of its stages, with as much computed again as its memory asks for."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray

from meshwright.cost import freed
from meshwright.cost.hybrid import HybridPricer, Layout, Stages, in_flight
from meshwright.plan.search._cover import Choice, cheapest_cover
from meshwright.units import Bytes, Seconds

Counts = tuple[int, ...]
_FEW = 512  # choices of what to compute again that are all looked at, where replicas differ
_TRIES = 8  # corrections of what was freed too little, where memory is not quite linear


@dataclass(frozen=True, slots=True)
class Burden:
    """What a worker's stages demand.

    Args:
        busy: of one micro-batch, recomputation included (s).
        again: units to compute again, by stage of the worker and kind.
    """

    busy: Seconds
    again: tuple[Counts, ...]


class Burdens:
    """Burdens of one frame's workers, each found once.

    Args:
        pricer: prices layouts.
        layout: of the frame, with as many bounds as stages.
        limits: bytes that a worker may use, by kind of training host.
        recompute: `none` and `all` as pinned; None: as needed.
        thrifty: whether memory is what is made small: then everything that frees some is computed again.
    """

    def __init__(
        self, pricer: HybridPricer, layout: Layout, *, limits: tuple[Bytes, ...], recompute: str | None, thrifty: bool
    ) -> None:
        self._pricer, self._layout, self._limits = pricer, layout, limits
        self._recompute, self._thrifty = recompute, thrifty
        self.workers, self.stages = layout.mesh.pp, len(layout.bounds)
        parts = [pricer.kinds(layout, replica) for replica in layout.replicas]
        self.forward = np.array([_by_worker([times.forward for _, times in part]) for part in parts])
        self.backward = np.array([_by_worker([times.backward for _, times in part]) for part in parts])
        self.pieces = [[pieces for pieces, _ in part] for part in parts]
        self.flying = in_flight(layout.form)
        last = pricer.units.num_kinds - 1
        self.is_block = tuple(0 < kind < last for kind in range(last + 1))
        self._each = (self.forward + self.backward).max(axis=0).tolist()
        self._known: dict[tuple[int, tuple[Counts, ...]], Burden | None] = {}

    def busy(self, rank: int, mine: Sequence[Counts]) -> Seconds:
        """Time of a worker's stages for one micro-batch, nothing computed again (at least that of every replica)."""
        if len(self.forward) == 1:
            each = self._each[rank]
            return sum(number * time for counts in mine for number, time in zip(counts, each, strict=True) if number)
        counts = np.array(mine).sum(axis=0)
        return float(((self.forward + self.backward)[:, rank] @ counts).max())

    def of(self, rank: int, mine: tuple[Counts, ...]) -> Burden | None:
        """A worker's burden; None where its memory is not enough even with everything computed again.

        Args:
            mine: units of each kind, in each of its stages.
        """
        key = rank, mine
        if key not in self._known:
            self._known[key] = self._found(rank, mine)
        return self._known[key]

    def _found(self, rank: int, mine: tuple[Counts, ...]) -> Burden | None:
        nothing = tuple((0,) * len(counts) for counts in mine)
        every = tuple(tuple(n * block for n, block in zip(counts, self.is_block, strict=True)) for counts in mine)
        if self._recompute is not None:
            pinned = every if self._recompute == "all" else nothing
            return self._with(rank, mine, pinned) if self._missing(rank, mine, pinned) <= 0 else None
        if self._thrifty:
            return self._least(rank, mine, nothing)
        missing = self._missing(rank, mine, nothing)
        return self._with(rank, mine, nothing) if missing <= 0 else self._covered(rank, mine, missing)

    def _covered(self, rank: int, mine: tuple[Counts, ...], missing: float) -> Burden | None:
        """With what is cheapest to compute again so that it fits."""
        options, places = self._options(rank, mine)
        ways = prod(option.available + 1 for option in options)
        if len(self.pieces) > 1 and ways <= _FEW:
            return self._looked_through(rank, mine, options, places)
        for _ in range(_TRIES):
            counts = cheapest_cover(options, missing)
            if counts is None:
                return None
            chosen = _placed(mine, places, counts)
            over = self._missing(rank, mine, chosen)
            if over <= 0:
                return self._with(rank, mine, chosen)
            missing += over
        return None

    def _looked_through(
        self, rank: int, mine: tuple[Counts, ...], options: list[Choice], places: list[tuple[int, int]]
    ) -> Burden | None:
        """Where replicas differ, each has a memory and a time of its own: every choice, until one fits, quickest first.

        Of blocks alike in one stage each one more that is computed again frees more, once there is one.
        """
        if len(options) == 1:
            numbers = range(1, options[0].available + 1)
            place = bisect_left(
                numbers, True, key=lambda one: self._missing(rank, mine, _placed(mine, places, (one,))) <= 0
            )
            return self._with(rank, mine, _placed(mine, places, (numbers[place],))) if place < len(numbers) else None
        every = (_placed(mine, places, one) for one in product(*(range(option.available + 1) for option in options)))
        quickest = sorted((self._with(rank, mine, chosen) for chosen in every), key=lambda one: one.busy)
        return next((one for one in quickest if self._missing(rank, mine, one.again) <= 0), None)

    def _least(self, rank: int, mine: tuple[Counts, ...], nothing: tuple[Counts, ...]) -> Burden | None:
        """With the least memory: nothing computed again, or all blocks whose activations are no larger than some."""
        options, places = self._options(rank, mine)
        tries = [nothing]
        for largest in sorted({option.whole for option in options}):
            again = [[0] * len(nothing[0]) for _ in mine]
            for (chunk, kind), option in zip(places, options, strict=True):
                again[chunk][kind] = option.available if option.whole <= largest and option.saved > 0 else 0
            tries.append(tuple(tuple(row) for row in again))
        least = min(tries, key=lambda chosen: self._missing(rank, mine, chosen))
        return self._with(rank, mine, least) if self._missing(rank, mine, least) <= 0 else None

    def _options(self, rank: int, mine: tuple[Counts, ...]) -> tuple[list[Choice], list[tuple[int, int]]]:
        """What may be computed again, and of which of the worker's stages and kinds of unit it is."""
        factor = self._pricer.correction.memory * freed(self._pricer.hosts[0].device)
        times = self.forward[:, rank].max(axis=0)
        options, places = [], []
        for chunk, counts in enumerate(mine):
            flying = self.flying[rank + chunk * self.workers]
            for kind, number in enumerate(counts):
                if not self.is_block[kind] or not number:
                    continue
                here = [part[rank] for part in self.pieces]
                gone = min(float(one.activations[kind] - one.inputs[kind]) for one in here)
                whole = max(float(one.activations[kind]) for one in here)
                options.append(
                    Choice(
                        available=number, saved=flying * gone * factor, cost=float(times[kind]), whole=whole * factor
                    )
                )
                places.append((chunk, kind))
        return options, places

    def _missing(self, rank: int, mine: tuple[Counts, ...], again: tuple[Counts, ...]) -> float:
        """Bytes over the limit on the replica that is worst off; at most 0 where all fit."""
        units, repeated = np.zeros((self.stages, len(mine[0]))), np.zeros((self.stages, len(mine[0])))
        units[rank :: self.workers] = mine
        repeated[rank :: self.workers] = again
        filled = Stages(units=units, again=repeated, workers=self.workers)
        return max(
            self._pricer.memory_of(self._layout, filled, replica, rank).peak - self._limits[replica.kinds[rank]]
            for replica in self._layout.replicas
        )

    def _with(self, rank: int, mine: tuple[Counts, ...], again: tuple[Counts, ...]) -> Burden:
        repeated = np.array(again).sum(axis=0)
        if not repeated.any():
            return Burden(self.busy(rank, mine), again)
        units = np.array(mine).sum(axis=0)
        times = (self.forward + self.backward)[:, rank] @ units + self.forward[:, rank] @ repeated
        return Burden(float(times.max()), again)


def _placed(mine: tuple[Counts, ...], places: list[tuple[int, int]], counts: Sequence[int]) -> tuple[Counts, ...]:
    """Counts by stage of the worker and kind."""
    again = [[0] * len(mine[0]) for _ in mine]
    for (chunk, kind), count in zip(places, counts, strict=True):
        again[chunk][kind] = count
    return tuple(tuple(row) for row in again)


def _by_worker(columns: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """One row per worker; those of one kind share their column."""
    places: dict[int, int] = {}
    which = [places.setdefault(id(column), len(places)) for column in columns]
    distinct = {id(column): column for column in columns}
    return np.array(list(distinct.values()))[which]
