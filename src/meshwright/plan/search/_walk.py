r"""Whether any stages of a frame can be done within a time: units handed to one worker after another, all it can take.

Worker $r$ with the units from $P$ to $E$ needs $m (W(E) - W(P)) + A(P) \le T$, where $W$ sums the work of a micro-batch
and $A$ the way through the units before (forward and backward, or forward only where halves of a backward fill the way
back). What it must compute again grows with what does not fit its memory. Each of these bounds on $E$ grows with $P$,
so that taking as many units as possible is best for all that follow: the end is reached if any stages reach it.
"""

from collections.abc import Sequence
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from meshwright.cost.hybrid import After, HybridPricer, Layout
from meshwright.plan.search._burden import Burdens
from meshwright.plan.search._rooms import room_of
from meshwright.units import Bytes, Seconds

_SLACK = 1 + 1e-9  # a bound may be too low by rounding, never too high

Columns = NDArray[np.float64]
Rows = list[list[float]]


class Walk:
    """The walk over one frame with a stage for each worker.

    What limits each worker is kept by kind of unit: its work; work with what must be computed again once memory is
    full; bytes with all computed again that may be; and what is left of a worker's halves of backwards once its first
    micro-batch is back. Units of one kind in a row are counted, not walked one by one.

    Args:
        pricer: prices layouts.
        layout: of the frame, with as many bounds as stages.
        burdens: of its workers.
        limits: bytes that a worker may use, by kind of training host.
        recompute: `none` and `all` as pinned; None: as needed.
        sent: a worker's time for what crosses each cut, there and back (s).
        after: what follows a worker's last backward.
        hiding: of its `hides`.
    """

    def __init__(
        self, pricer: HybridPricer, layout: Layout, burdens: Burdens, *, limits: tuple[Bytes, ...],
        recompute: str | None, sent: Sequence[Seconds], after: After, hiding: float,
    ) -> None:  # fmt: skip
        self._sent = [before + behind for before, behind in pairwise((0.0, *sent, 0.0))]
        self._count, self._workers = layout.micro_batches, burdens.workers
        self._kinds = pricer.units.kinds
        self._ends, self._run = _runs(self._kinds.tolist())
        both = burdens.forward + burdens.backward
        all_units = np.bincount(self._kinds, minlength=pricer.units.num_kinds)
        slowest, ranks = np.argmax(both @ all_units, axis=0), np.arange(burdens.workers)
        forward, backward = burdens.forward[slowest, ranks], burdens.backward[slowest, ranks]
        split = layout.schedule == "zero_bubble"
        ahead = burdens.forward.min(axis=(0, 1))
        late = layout.schedule == "asynchronous"
        self._way = self._sums(ahead if split or late else both.min(axis=(0, 1)))
        self._forward = float(ahead @ all_units)
        self._return = self._sums(burdens.backward.min(axis=(0, 1)) / 2)
        self._back = self._after_return(forward, backward).tolist() if split else []
        pieces = [burdens.pieces[replica][rank] for replica, rank in zip(slowest, ranks, strict=True)]
        saved, inputs = np.array([one.activations for one in pieces]), np.array([one.inputs for one in pieces])
        flying, blocks = np.array(burdens.flying, dtype=np.float64)[:, None], np.array(burdens.is_block)
        freed = np.where(blocks, saved - inputs, 0.0) * flying
        weights = np.array([pricer.weight_of(layout, kind) for kind in range(pricer.units.num_kinds)])
        held = weights + flying * saved
        room = np.max([room_of(pricer, layout, one, limits=limits) for one in layout.replicas], axis=0)
        last = backward + (forward * blocks if recompute == "all" else 0.0)
        later = (after.of_units(hiding) - hiding * last) / self._count
        work = forward + last
        # a worker whose last backward is not followed by the way back then exchanges and updates by itself
        alone, self._spared_after = (later if split or late else 0.0), after.spared / self._count
        self._spared_alone = self._spared_after if split or late else 0.0
        self._work: Rows = (work + alone).tolist()
        self._busy: Rows = [] if split or late else (work + later).tolist()
        self._least: Rows = (held if recompute == "none" else held - freed).tolist()
        worth = np.divide(forward, freed, out=np.full_like(forward, np.inf), where=freed > 0).min(axis=1)
        rate = np.where(np.isfinite(worth), worth, 0.0) if recompute is None else np.zeros_like(worth)
        rate = rate * (1 - hiding / self._count)
        self._crowded: Rows = (forward + backward + alone + rate[:, None] * held).tolist() if rate.any() else []
        self._spared: list[float] = (rate * room).tolist()
        self._room_bytes: list[float] = (room * _SLACK).tolist()

    def reaches(self, span: Seconds, *, busy: Seconds = float("inf")) -> bool:
        """Whether stages may exist that are done within a time (before any correction).

        Args:
            span: from the first forward to the last backward (s).
            busy: what each worker has to do in it, at most (s).
        """
        return self.ends(span, busy=busy)[-1] >= len(self._kinds)

    def ends(self, span: Seconds, *, busy: Seconds = float("inf")) -> list[int]:
        """Up to which unit each worker comes at most within a time (as `reaches`)."""
        place, size, found = 0, len(self._kinds), list[int]()
        for rank in range(self._workers):
            place = min(self._furthest(rank, place, span, busy), size - (self._workers - rank - 1))
            found.append(place)
        return found

    def _furthest(self, rank: int, place: int, span: Seconds, busy: Seconds) -> int:
        spare = (span * _SLACK - self._way[place]) / self._count - self._sent[rank] + self._spared_alone
        end = self._end(self._work[rank], place, spare)
        if self._busy:
            whole = busy * _SLACK / self._count - self._sent[rank] + self._spared_after
            end = min(end, self._end(self._busy[rank], place, whole))
        end = min(end, self._end(self._least[rank], place, self._room_bytes[rank]))
        if self._crowded:
            end = min(end, self._end(self._crowded[rank], place, spare + self._spared[rank]))
        if self._back:
            spare = span * _SLACK - self._forward - (self._return[-1] - self._return[place])
            end = min(end, self._end(self._back[rank], place, spare))
        return end

    def _end(self, each: list[float], place: int, spare: float) -> int:
        """Up to which unit what units take, by kind, is no more than what is to spare."""
        if spare < 0:
            return place
        for number in range(self._run[place], len(self._ends)):
            stop, kind = self._ends[number]
            needed = each[kind] * (stop - place)
            if needed > spare * _SLACK:
                return place + int(spare / each[kind] * _SLACK + 1e-9)
            spare, place = spare - needed, stop
        return place

    def _after_return(self, forward: Columns, backward: Columns) -> Columns:
        """What is left to a worker once its first micro-batch is back: halves of backwards fill the time until then."""
        started = np.minimum(self._count, self._workers - np.arange(self._workers))[:, None]
        return (self._count - started) * forward + (2 * self._count - 1) / 2 * backward

    def _sums(self, values: Columns) -> list[float]:
        """Over the units before each unit."""
        return [0.0, *np.cumsum(values[self._kinds]).tolist()]


def _runs(kinds: list[int]) -> tuple[list[tuple[int, int]], list[int]]:
    """Where each row of units of one kind ends, and its kind; and in which row each unit is."""
    ends: list[tuple[int, int]] = []
    rows: list[int] = []
    for kind, units in groupby(kinds):
        length = sum(1 for _ in units)
        rows += [len(ends)] * length
        ends.append((len(rows), kind))
    return ends, [*rows, len(ends)]
