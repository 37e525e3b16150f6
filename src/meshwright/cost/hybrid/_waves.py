"""A wide pipeline's run, wave by wave: all that can be done at once is timed at once, as columns.

A wave is the next action of every worker whose action waits for none that is not in an earlier wave. There are about
as many waves as one worker has actions, so that columns pay where a pipeline has many workers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshwright.units import Seconds

Index = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Wave:
    """Actions of different workers.

    Args:
        own: their places among all actions.
        previous: places of their workers' actions before, that of nothing where there is none.
        awaited: places of what they wait for, likewise.
    """

    own: slice
    previous: Index
    awaited: Index


@dataclass(frozen=True, slots=True)
class Waves:
    """All actions in an order in which each follows what it waits for.

    Args:
        each: the waves.
        numbers: of the actions (`numbered_orders`).
        cuts: which cut the awaited result crosses, -1 where it stays on the worker.
        last: place of each worker's last action.
    """

    each: tuple[Wave, ...]
    numbers: Index
    cuts: Index
    last: Index

    def ends(self, durations: NDArray[np.float64], carried: Sequence[Seconds]) -> list[Seconds]:
        """When each worker has done its last action (s).

        Args:
            durations: of every action (s).
            carried: time over every cut, and 0 last (s).
        """
        ends = np.zeros(len(self.numbers) + 1)  # nothing, the last, ends at 0
        travelling = np.array(carried)[self.cuts] if any(carried) else None
        for wave in self.each:
            start = ends.take(wave.awaited)
            if travelling is not None:
                start += travelling[wave.own]
            np.maximum(start, ends.take(wave.previous), out=start)
            np.add(start, durations[wave.own], out=ends[wave.own])
        return ends[self.last].tolist()


def waves_of(numbers: Index, awaited: Index, cuts: Index) -> Waves:
    """The waves of workers' orders of work.

    Args:
        numbers: of each worker's actions in its order (`workers actions`).
        awaited: number of what each waits for, -1 where there is none.
        cuts: which cut that crosses, -1 where it stays on the worker.
    """
    workers, length = numbers.shape
    nothing, size = numbers.size, int(numbers.max()) + 2
    place_of, is_done = np.full(size, nothing), np.zeros(size, dtype=np.bool_)
    is_done[-1] = True
    at, previous = np.zeros(workers, dtype=np.intp), np.full(workers, nothing)
    left, taken = np.arange(workers), 0
    each, order, crossed = list[Wave](), list[Index](), list[Index]()
    while len(left):
        now = awaited[left, at[left]]
        is_ready = is_done[now]
        ranks, now = left[is_ready], now[is_ready]
        found = numbers[ranks, at[ranks]]
        own = slice(taken, taken + len(found))
        each.append(Wave(own, previous[ranks], place_of[now]))
        order.append(found)
        crossed.append(cuts[ranks, at[ranks]])
        place_of[found] = previous[ranks] = np.arange(own.start, own.stop)
        is_done[found] = True
        at[ranks] += 1
        left, taken = left[at[left] < length], own.stop
    return Waves(tuple(each), np.concatenate(order), np.concatenate(crossed), previous)
