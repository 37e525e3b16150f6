r"""What a layout takes at least beside its units' own work, whatever its stages are: what bounds of a search add.

After its last backward a worker exchanges gradients. Of an exchange of $e$ seconds beside a backward of $w$ at least
$\max(e - κ w, φ e)$ is waited for: it is convex in both, so that the mean over workers waits for no less than the mean
worker would. Exchanges take a latency for each of a whole number of buckets and are otherwise linear in what they
carry; rounding to whole buckets spares at most the cost of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meshwright.cost._workload import Column
from meshwright.cost.hybrid._after import After
from meshwright.cost.hybrid._data_exchange import Shards
from meshwright.cost.hybrid._held import carrying
from meshwright.cost.hybrid._hybrid import HybridPricer
from meshwright.cost.hybrid._layout import Layout
from meshwright.cost.hybrid._shard_group import shard_groups
from meshwright.units import Seconds

_BUCKETS = 2.0**30  # of which an exchange is as good as linear in what it carries
_ROUNDING = 1 - 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class _Slopes:
    """What exchanges take for each byte (s/B), and what rounding to whole buckets may spare of them (s)."""

    common: float
    expert: float
    parameters: float
    coding: float
    spared: Seconds


class Least:
    """Lower bounds for one pricer's layouts; what layouts share is found once.

    Args:
        pricer: prices layouts.
    """

    def __init__(self, pricer: HybridPricer) -> None:
        self._pricer = pricer
        own = pricer.devices.own_habits
        self.waited: float = min(1.0, own.bubble) if own is not None else 1.0  # of filling and emptying a pipeline
        self._slopes: dict[tuple, _Slopes] = {}
        self._updates: dict[tuple, Column] = {}
        self._sent: dict[tuple, Seconds] = {}
        self._rows = np.eye(pricer.units.num_kinds)
        sizes = {(size.fixed, size.per_example): bound for bound, size in pricer.units.cuts.items()}
        self._lightest = tuple(sizes.values())

    def overhead(self, layout: Layout) -> Seconds:
        """What a step takes besides computing, exchanging and updating (s)."""
        return self._pricer.devices.least_step(layout.micro_batches)

    def sent(self, layout: Layout, num_stages: int) -> tuple[Seconds, ...]:
        """What both workers at each cut spend on what crosses it, there and back (s)."""
        ways = self._pricer.exchanges.ways(layout, num_stages)
        each = {way: self._sent_so_far(layout, way) for way in set(ways)}
        return tuple(each[way] for way in ways)

    def all_sent(self, layout: Layout, num_stages: int) -> Seconds:
        """The same at all cuts together (s)."""
        ways = self._pricer.exchanges.counted_ways(layout, num_stages)
        return sum(number * self._sent_so_far(layout, way) for way, number in ways)

    def _sent_so_far(self, layout: Layout, way: int) -> Seconds:
        """Args: way: one of `Exchanges.ways`."""
        pricer, habits = self._pricer, self._pricer.devices.own_habits
        if habits is None:
            return 0.0
        key = (
            way, layout.mesh.cp, layout.mesh.tp if layout.sequence == "split" else 1, layout.exchange.transport,
            *(replica.examples for replica in layout.replicas), *pricer.exchanges.beside(layout),
        )  # fmt: skip
        if key not in self._sent:
            times = (pricer.least_transfer(layout, one, self._lightest, apart=way) for one in layout.replicas)
            self._sent[key] = habits.send * min(times)
        return self._sent[key]

    def shards(self, layout: Layout, degrees: Sequence[int]) -> Shards:
        """What parameters in any of so many shards take at least, of a layout whose data ranks are replicas yet."""
        _, weights = self._pricer.local(layout.division)
        copying = max(self._pricer.copying(layout, kind) for one in layout.replicas for kind in set(one.kinds))
        return Shards.least([
            self._pricer.data.shards_among(layout, group, weights, copying=copying)
            for group in shard_groups(layout, degrees)
        ])  # fmt: skip

    def after(self, layout: Layout) -> After:
        """What exchange, update and state add after the last backward."""
        pricer = self._pricer
        _, weights = pricer.local(layout.division)
        kinds = {kind for replica in layout.replicas for kind in replica.kinds}
        slopes, wide = self._slopes_of(layout, kinds), self._widened(layout)
        hiding, share, gathering = pricer.data.least_waited(layout)
        reduced = wide * (slopes.common * (weights.gradients - weights.expert) + slopes.expert * weights.expert)
        gathered = gathering * slopes.parameters * weights.parameters
        every = self._updated(layout, kinds) + wide * slopes.coding * weights.gradients + gathered
        return After(
            every=every, reduced=reduced, spared=slopes.spared, hiding=hiding, share=share,
            once=pricer.data.loss(layout), meetings=self._met(layout, kinds),
        )  # fmt: skip

    def _updated(self, layout: Layout, kinds: set[int]) -> Column:
        """The update of a unit of each kind where shards are smallest, and its state's way there and back (s)."""
        shards = layout.parts()
        how = layout.division, layout.micro_batches, layout.kernels, layout.offload == "state"
        key = *how, shards, layout.expert_ratio, *sorted(kinds)
        if key not in self._updates:
            self._updates[key] = np.min([
                [self._unit_updated(layout, kind, row, shards) for row in self._rows] for kind in kinds
            ], axis=0)  # fmt: skip
        return self._updates[key]

    def _unit_updated(self, layout: Layout, kind: int, row: Column, shards: float) -> Seconds:
        pricer = self._pricer
        way, (_, weights) = pricer.devices.host_link(kind), pricer.local(layout.division)
        parts = weights.in_shards(layout.expert_ratio)
        carried = carrying(pricer.graph, layout, row, parts, way, shard=shards)
        return pricer.updated(layout, kind, row, shards=shards) + carried

    def _slopes_of(self, layout: Layout, kinds: set[int]) -> _Slopes:
        exchange, (_, weights) = layout.exchange, self._pricer.local(layout.division)
        routed = bool(weights.expert.any())
        key = (
            layout.mesh, layout.order, layout.sharding, layout.shards and (layout.shards, layout.replicas), exchange,
            layout.precision.reduction, layout.threads, routed, *sorted(kinds),
        )  # fmt: skip
        if key not in self._slopes:
            size = _BUCKETS * exchange.bucket_size
            copying = max(self._pricer.copying(layout, kind) for kind in kinds)
            common = self._pricer.data.sums(layout, size, 0.0, 0.0, copying=copying)
            expert = self._pricer.data.sums(layout, size, size, 0.0, copying=copying) if routed else common
            parameters = self._pricer.data.sums(layout, 0.0, 0.0, size, copying=copying)
            if routed:  # experts' come from fewer workers
                others = self._pricer.data.sums(layout, size, size, size, copying=copying)
                parameters = min(parameters, others, key=lambda one: one.gathered)
            listed = (*common.collectives, *(expert.collectives if routed else ()), *parameters.collectives)
            self._slopes[key] = _Slopes(
                common=_ROUNDING * common.reduced / size, expert=_ROUNDING * expert.reduced / size,
                parameters=_ROUNDING * parameters.gathered / size,
                coding=_ROUNDING * min(common.passes, expert.passes) / size,
                spared=sum(one.duration / max(1, one.count) for one in listed),
            )  # fmt: skip
        return self._slopes[key]

    def _widened(self, layout: Layout) -> float:
        """Least bytes of a gradient on the network over those as captured."""
        devices, (_, weights) = self._pricer.devices, self._pricer.local(layout.division)
        width = devices.habits.gradient_bytes if devices.own_habits is not None else 0.0
        there = weights.gradients > 0
        if not width or not there.any():
            return 1.0
        return float((weights.elements[there] * width / weights.gradients[there]).min())

    def _met(self, layout: Layout, kinds: set[int]) -> Seconds:
        """What the mean worker's meetings of islands add; those that take no turn of their own as the step allows."""
        updates, pricer = layout.exchange.updates, self._pricer
        if updates is None or updates.kind != "local" or updates.delay:
            return 0.0
        units = np.bincount(pricer.units.kinds, minlength=pricer.units.num_kinds) / layout.mesh.pp
        outer = pricer.meetings(layout, units, float("inf"), max(pricer.copying(layout, kind) for kind in kinds))
        return outer.exposed + outer.passes
