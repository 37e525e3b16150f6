"""What data ranks exchange: gradients, once after the last backward; parameters in shards, around every unit.

In fewer bits a sum is made of messages, each priced over the links that it crosses. An all-to-all leaves a host once
for every device, a ring once for all of them: half the bits do not take half the time where workers share a network.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np

from meshwright.cost._communication import moved_share
from meshwright.cost._lossy import (
    SHARDED,
    coding_time,
    encoded_share,
    of_gradients,
    routes,
    sends_less,
    sent_along,
    shard_copies,
)
from meshwright.cost._mesh import Axis
from meshwright.cost._prediction import Collective
from meshwright.cost._workload import Column
from meshwright.cost.accelerator import Slowdown, after_backward, least_waited
from meshwright.cost.hybrid._exchanges import Exchanges
from meshwright.cost.hybrid._layout import Layout
from meshwright.cost.hybrid._order import mean_stride
from meshwright.cost.hybrid._pieces import Weights
from meshwright.cost.hybrid._shard_group import ShardGroup, shard_group
from meshwright.cost.hybrid._units import gradient_bytes, trained_elements
from meshwright.graph import Graph
from meshwright.hardware import CollectiveName
from meshwright.units import Bytes, BytesPerSecond, Seconds

_LOSS_SIZE = 16
_FLOAT: Bytes = 4
_DATA: tuple[Axis, ...] = ("dp_replicate", "dp_shard")
_SHARDS: tuple[Axis, ...] = ("dp_shard", "cp")
_ALL: tuple[Axis, ...] = ("dp_replicate", "dp_shard", "cp")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shards:
    """What a unit of each kind takes whose parameters are in shards.

    Args:
        parameters: bytes that are gathered.
        gradients: bytes that are scattered.
        gathered: time of the one on the links (s).
        scattered: and of the other (s).
        gathering: encoding and decoding the one, for which computing waits (s).
        scattering: and the other (s).
        slowdown: of what travels and of what is computed beside it.
    """

    parameters: Column
    gradients: Column
    gathered: Column
    scattered: Column
    gathering: Column | float = 0.0
    scattering: Column | float = 0.0
    slowdown: Slowdown = Slowdown()

    @classmethod
    def least(cls, listed: "Sequence[Shards]") -> "Shards":
        """What every one of some takes at least."""

        def columns(name: str) -> Column:
            return reduce(np.minimum, (getattr(one, name) for one in listed))

        slowdown = Slowdown(
            computing=min(one.slowdown.computing for one in listed),
            exchange=min(one.slowdown.exchange for one in listed),
        )
        return cls(
            parameters=columns("parameters"), gradients=columns("gradients"), gathered=columns("gathered"),
            scattered=columns("scattered"), gathering=columns("gathering"), scattering=columns("scattering"),
            slowdown=slowdown,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Synchronised:
    """What follows the last backward of one worker of the pipeline.

    Args:
        exposed: exchange of gradients and updated parameters that nothing hides (s).
        collectives: what is exchanged.
    """

    exposed: Seconds
    collectives: tuple[Collective, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sums:
    """What one worker of the pipeline exchanges once a step, apart from when.

    Args:
        collectives: of gradients and updated parameters.
        reduced: of gradients, on the links (s).
        gathered: of parameters, on the links (s).
        passes: encoding and decoding (s).
    """

    collectives: tuple[Collective, ...]
    reduced: Seconds
    gathered: Seconds
    passes: Seconds


class DataExchange:
    """Prices of what the data ranks of layouts exchange.

    Args:
        graph: the whole one.
        exchanges: prices of collectives.
    """

    def __init__(self, graph: Graph, exchanges: Exchanges) -> None:
        self._graph, self._exchanges = graph, exchanges
        self._known_shards: dict[tuple, Shards] = {}

    def shards(self, layout: Layout, weights: Weights, *, copying: BytesPerSecond) -> Shards | None:
        """Parameters gathered and gradients scattered, unit by unit; None where they are whole.

        Args:
            weights: of the layout's division.
            copying: bytes that a worker reads and writes over time when gradients are copied (B/s).
        """
        if layout.sharding != "parameters" or layout.shard_group == 1:
            return None
        return self.shards_among(layout, shard_group(layout), weights, copying=copying)

    def shards_among(
        self, layout: Layout, group: ShardGroup, weights: Weights, *, copying: BytesPerSecond
    ) -> Shards:  # fmt: skip
        """The same where other workers than the layout's share them out (arguments as for `shards`)."""
        key = layout.division, group, layout.exchange, copying, *self._exchanges.beside(layout)
        if key not in self._known_shards:
            self._known_shards[key] = self._shards(layout, group, weights, copying)
        return self._known_shards[key]

    def _shards(self, layout: Layout, group: ShardGroup, weights: Weights, copying: BytesPerSecond) -> Shards:
        degree, stride, choice = group.degree, group.stride, of_gradients(layout.exchange)
        experts = _share(weights.expert_parameters, weights.parameters) if layout.mesh.ep > 1 else 0.0

        def times(name: CollectiveName, sizes: Column) -> Column:
            common, routed = sizes * (1 - experts) * group.unevenness, sizes * experts
            return np.array(
                [
                    sum(
                        self._exchanges.time(layout, name, workers, apart, float(size))
                        for workers, apart, size in ((degree, stride, one), (group.experts, group.apart, other))
                        if size
                    )
                    for one, other in zip(common, routed, strict=True)
                ]
            )

        slowdown = self._exchanges.slowdown(degree, stride)
        if choice is None:
            parameters, gradients = weights.parameters, weights.gradients
            return Shards(
                parameters=parameters, gradients=gradients, gathered=times("all_gather", parameters),
                scattered=times("reduce_scatter", gradients), slowdown=slowdown,
            )  # fmt: skip
        floats = _FLOAT * weights.elements
        parameters, gradients = encoded_share(SHARDED) * floats, encoded_share(choice) * floats
        gathering, scattering = shard_copies(choice, group=degree)
        return Shards(
            parameters=parameters, gradients=gradients, gathered=times("all_gather", parameters),
            scattered=times("all_to_all", gradients), gathering=gathering * 2 * floats / copying,
            scattering=scattering * 2 * floats / copying, slowdown=slowdown,
        )  # fmt: skip

    def in_shards(self, layout: Layout, weights: Weights, units: Column) -> Iterator[Collective]:
        """Collectives of a step on parameters in shards, of one worker.

        Args:
            units: of each kind on it.
        """
        shards = self.shards(layout, weights, copying=float("inf"))
        if shards is None:
            return
        count = layout.micro_batches
        number = int((units * (weights.parameters > 0)).sum()) * count
        for name, calls, sizes, times in (
            ("all_gather", 2, shards.parameters, shards.gathered),
            ("reduce_scatter", 1, shards.gradients, shards.scattered),
        ):
            yield Collective(
                name=name, axis="dp_shard", count=calls * number, size=round(calls * count * float(units @ sizes)),
                duration=calls * count * float(units @ times),
            )  # fmt: skip

    def synchronised(
        self, layout: Layout, gradients: float, expert: float, parameters: float,
        *, window: Seconds, copying: BytesPerSecond,
    ) -> Synchronised:  # fmt: skip
        """Gradients summed over an island's data axes once a step, beside the last micro-batch's backward.

        Args:
            gradients: bytes on one worker.
            expert: of them, those of experts, of which there are fewer replicas.
            parameters: bytes on one worker.
            window: that backward (s); 0 where nothing can be hidden behind it.
            copying: bytes that a worker reads and writes over time when gradients are copied (B/s).
        """
        sums = self.sums(layout, gradients, expert, parameters, copying=copying)
        exposed = self.loss(layout) + sums.passes
        exposed += self._after(layout, sums.reduced, sums.gathered, gradients, window=window)
        return Synchronised(exposed=exposed, collectives=sums.collectives)

    def loss(self, layout: Layout) -> Seconds:
        """The loss summed over an island (s)."""
        return self._exchanges.time(layout, "all_reduce", layout.mesh.num_workers // layout.islands, 1, _LOSS_SIZE)

    def sums(
        self, layout: Layout, gradients: float, expert: float, parameters: float, *, copying: BytesPerSecond
    ) -> Sums:  # fmt: skip
        """The exchange of gradients and updated parameters (arguments as for `synchronised`)."""
        mesh = layout.mesh
        islands = layout.islands
        replicate, shard, context = mesh.dp_replicate // islands, mesh.dp_shard, mesh.cp
        lossy = sends_less(layout.exchange, layout.precision)
        found: list[Collective] = []
        passes = 0.0

        def add(name: CollectiveName, axis: str, degree: int, step: int, size: float) -> None:
            nonlocal passes
            if degree == 1 or size <= 0:
                return
            if axis == "dp_shard":
                size *= layout.unevenness
            calls = max(1, round(size / layout.exchange.bucket_size))
            if lossy and name != "all_gather":
                one, encoding = self._summed(layout, name, axis, degree, step, size, calls, copying)
                passes += encoding
            else:
                duration = self._exchanges.time(layout, name, degree, step, size, calls=calls)
                one = Collective(name=name, axis=axis, count=calls, size=round(size), duration=duration)
            found.append(one)

        expert = expert if mesh.ep > 1 else 0.0
        common, group, near = gradients - expert, layout.shard_group, layout.stride_among(*_SHARDS)
        # as many of them in a host as of neighbours so far apart: other axes may lie between the data ranks
        axes: tuple[tuple[int, Axis], ...] = ((replicate, "dp_replicate"), (shard, "dp_shard"), (context, "cp"))
        step = mean_stride(*((degree, layout.stride(axis)) for degree, axis in axes))
        if layout.sharding == "none":
            add("all_reduce", "data", replicate * shard * context, step, common)
            add("all_reduce", "data", replicate * shard * context // mesh.ep, step * mesh.ep, expert)
        else:
            if layout.sharding != "parameters":
                add("reduce_scatter", "dp_shard", group, near, common)
                add("reduce_scatter", "dp_shard", layout.expert_group, step * mesh.ep, expert)
            add("all_reduce", "dp_replicate", replicate, layout.stride("dp_replicate"), common / layout.fewest_parts)
        total = sum(item.duration for item in found)
        if layout.sharding in ("optimizer", "gradients"):
            handed = parameters if of_gradients(layout.exchange) is None else self._in_eight_bits(parameters)
            routed = expert / gradients if gradients else 0.0
            add("all_gather", "dp_shard", group, near, handed * (1 - routed))
            add("all_gather", "dp_shard", layout.expert_group, step * mesh.ep, handed * routed)
        gathered = sum(item.duration for item in found) - total
        return Sums(collectives=tuple(found), reduced=total, gathered=gathered, passes=passes)

    def least_waited(self, layout: Layout) -> tuple[float, float, float]:
        """Of an exchange beside the last backward, what is waited for at least.

        Returns:
            The share of that backward that hides it at most; the share that is waited for in any case; and the share of
            the gathering of parameters that is.
        """
        habits = self._exchanges.habits
        hiding, share, gathering = 1.0, 0.0, 1.0
        if habits is not None:
            slowdown = self._exchanges.slowdown(layout.mesh.num_shares, layout.stride_among(*_DATA))
            hiding, share = least_waited(habits, slowdown)
            gathering = habits.gather_exposed
        return (hiding, share, gathering) if layout.exchange.overlap else (0.0, 1.0, gathering)

    def _summed(
        self, layout: Layout, name: CollectiveName, axis: str, degree: int, stride: int, size: float, calls: int,
        copying: BytesPerSecond,
    ) -> tuple[Collective, Seconds]:  # fmt: skip
        """A sum in fewer bits, as large as the exact one that sends as much, and what encoding it takes (s)."""
        choice, whole = of_gradients(layout.exchange), size * self._floats
        owned = name == "reduce_scatter" and layout.sharding == "gradients"
        listed = routes(choice, self._graph, group=degree, owned=owned)
        duration = self._exchanges.routed(layout, listed, degree, stride, whole, calls=calls)
        sent = whole * sent_along(listed, group=degree)
        one = Collective(
            name=name, axis=axis, count=calls * len(listed), size=round(sent / moved_share(name, degree)),
            duration=duration,
        )  # fmt: skip
        return one, coding_time(choice, whole, group=degree, copying=copying)

    @cached_property
    def _floats(self) -> float:
        """Bytes of gradients in float32 over those as captured."""
        captured = float(gradient_bytes(self._graph).sum())
        return _FLOAT * float(trained_elements(self._graph).sum()) / captured if captured else 1.0

    def _in_eight_bits(self, parameters: float) -> float:
        return encoded_share(SHARDED) * self._floats * parameters

    def _after(
        self, layout: Layout, reduced: Seconds, gathered: Seconds, gradients: float, *, window: Seconds
    ) -> Seconds:
        """What of exchanging gradients, and then parameters, nothing hides (s)."""
        habits = self._exchanges.habits
        if habits is not None:
            slowdown = self._exchanges.slowdown(layout.mesh.num_shares, layout.stride_among(*_DATA))
            return after_backward(reduced, gathered, window if layout.exchange.overlap else 0.0, habits, slowdown)
        tail = reduced * min(1.0, layout.exchange.bucket_size / max(1.0, gradients))
        return gathered + (max(tail, reduced - window) if layout.exchange.overlap else reduced)


def _share(part: Column, whole: Column) -> Column:
    """What part of each is of a sort."""
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)
