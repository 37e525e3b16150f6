r"""Whether the units fit the memory of a pipeline's workers at all, before anything is timed: most layouts do not.

A worker's room $L$ is its limit without what it holds whatever its stages are. With one stage for each worker, units
are handed to one worker after another, as many as it can hold: the end is reached if any stages reach it. With several,
a worker whose $v$ stages have $F$ micro-batches under way together, and $f$ in the stage with the fewest, holds $c$
blocks only if $c·w + F x + (c - v) f x \le L$: $w$ are a block's weights, $x$ what is kept of its activations (its
input where it may be computed again). Every stage has a block but the first and the last one, which count as the one
with the fewest, so that a worker with room for fewer blocks than such stages will not do; where there are several kinds
of blocks no stage must have one of a kind.
"""

from collections.abc import Sequence
from copy import copy
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from meshwright.cost import allocated
from meshwright.cost.hybrid import Form, HybridPricer, Layout, Replica, in_flight
from meshwright.units import Bytes

_SLACK = 1 + 1e-9
_ROUNDED: Bytes = 16  # every item of a worker's memory is rounded to bytes

Values = NDArray[np.float64]


class Rooms:
    """What the workers of a shape's pipelines have room for, whatever is sharded and in whichever order they work.

    Args:
        pricer: prices layouts.
        shape: a layout without its stages.
        limits: bytes that a worker may use, by kind of training host.
        recompute: `none` and `all` as pinned; None: as needed.
    """

    def __init__(
        self, pricer: HybridPricer, shape: Layout, *, limits: Sequence[Bytes], recompute: str | None
    ) -> None:  # fmt: skip
        units = tuple(pricer.units.kinds.tolist())
        self._counts = [units.count(kind) for kind in range(pricer.units.num_kinds)]
        last = pricer.units.num_kinds - 1
        self._blocks = [kind for kind in range(1, last) if self._counts[kind]]
        self._runs = _runs(units)
        self._replicas: list[tuple[Values, Values]] = []  # of each order: of each worker
        for replica in shape.replicas:
            kinds = list(dict.fromkeys(replica.kinds))
            pieces = [pricer.pieces_for(shape, replica, kind) for kind in kinds]
            kept = np.array([one.activations for one in pieces])
            if recompute != "none":
                kept[:, 1:last] = np.array([one.inputs[1:last] for one in pieces])
            kept = kept[[kinds.index(kind) for kind in replica.kinds]]
            self._replicas.append((room_of(pricer, shape, replica, limits=limits)[None], kept[None]))

    @classmethod
    def any_of(cls, orders: Sequence["Rooms"]) -> "Rooms":
        """The same workers in any of several orders."""
        found = copy(orders[0])
        found._replicas = [
            (np.concatenate([room for room, _ in each]), np.concatenate([kept for _, kept in each]))
            for each in zip(*(one._replicas for one in orders), strict=True)
        ]
        return found

    def hold(self, form: Form, weights: Values) -> NDArray[np.bool_]:
        """Whether stages may exist that fit every replica's memory, in one of the orders.

        Args:
            form: of the pipeline.
            weights: parameters, gradients and state of one unit of each kind (B; `cases kinds`).

        Returns:
            By case.
        """
        shared = [self._shared_out(form, weights, room, kept) for room, kept in self._replicas]
        found = np.logical_and.reduce(shared)
        if form.num_stages == form.num_workers:
            for order, case in np.argwhere(found):
                found[order, case] = not found[:order, case].any() and all(
                    self._handed_out(form, weights[case], room[order], kept[order]) for room, kept in self._replicas
                )
        return found.any(axis=0)

    def _shared_out(self, form: Form, weights: Values, room: Values, kept: Values) -> NDArray[np.bool_]:
        """By order and case."""
        whole, fewest = _flying(form)
        found = np.ones((len(room), len(weights)), dtype=np.bool_)
        for kind in self._blocks:
            each = kept[:, :, kind]
            base = (whole - form.num_stages // form.num_workers * fewest) * each if len(self._blocks) == 1 else 0.0
            needed = np.maximum(weights[None, :, kind, None] + (fewest * each)[:, None], 1e-30)
            most = np.floor((room * _SLACK - base)[:, None] / needed)
            found &= most.sum(axis=2) >= self._counts[kind]
            if len(self._blocks) == 1:
                found &= (most >= least_blocks(form)).all(axis=2)
        return found

    def _handed_out(self, form: Form, weights: Values, room: Values, kept: Values) -> bool:
        flying = np.array(in_flight(form), dtype=np.float64)
        each = (weights + flying[:, None] * kept).tolist()
        run, (kind, left) = 0, self._runs[0]  # units of the present row that are left
        for most, needed in zip((room * _SLACK).tolist(), each, strict=True):
            spare = most
            while spare >= needed[kind] * left:
                spare -= needed[kind] * left
                run += 1
                if run == len(self._runs):
                    return True
                kind, left = self._runs[run]
            left -= int(spare / needed[kind] + 1e-9) if spare > 0 else 0
        return False


def room_of(pricer: HybridPricer, layout: Layout, replica: Replica, *, limits: Sequence[Bytes]) -> Values:
    """What is left to each worker of a replica's pipeline for its units (B, before any correction).

    Args:
        limits: bytes that a worker may use, by kind of training host.
    """
    graph, factor = pricer.graph, pricer.correction.memory
    common = graph.buffer_size + graph.batch_bytes.at(replica.examples * layout.micro_batches) - _ROUNDED
    each = [
        (limit / factor - host.device.context) / allocated(host.device) - common
        for limit, host in zip(limits, pricer.hosts, strict=True)
    ]
    room = np.array([each[kind] for kind in replica.kinds])
    room[-1] -= pricer.pieces_for(layout, replica, replica.kinds[-1]).transient  # of the logits
    return room


@lru_cache(maxsize=4096)
def least_blocks(form: Form) -> Values:
    """How many blocks each worker has at least: one in every stage but the first and the last."""
    found = np.full(form.num_workers, form.num_stages / form.num_workers)
    found[0] -= 1
    found[-1] -= 1
    return np.maximum(found, 0.0)


@lru_cache(maxsize=4096)
def _flying(form: Form) -> tuple[Values, Values]:
    """Micro-batches under way in all stages of each worker together, and in the one with the fewest."""
    each = np.array(in_flight(form), dtype=np.float64).reshape(-1, form.num_workers)
    fewest = each.min(axis=0)
    each[0, 0], each[-1, -1] = fewest[0], fewest[-1]
    return each.sum(axis=0), fewest


@lru_cache(maxsize=64)
def _runs(kinds: tuple[int, ...]) -> list[tuple[int, int]]:
    """Rows of units of one kind: the kind, and how many."""
    found: list[tuple[int, int]] = []
    for kind in kinds:
        if found and found[-1][0] == kind:
            found[-1] = kind, found[-1][1] + 1
        else:
            found.append((kind, 1))
    return found
