"""What distinguishes one strategy of a large cluster from another, without a list of its workers."""

from dataclasses import dataclass, replace
from typing import Literal

from meshwright.cost._convergence import stale_steps
from meshwright.cost._lossy import of_gradients, sends_less
from meshwright.cost._mesh import Axis, Mesh
from meshwright.cost._split import Schedule
from meshwright.cost._strategy import Exchange, Kernels, Offload, Precision, Sharding
from meshwright.cost.hybrid._local import Division, SequenceMode
from meshwright.cost.hybrid._order import USUAL_ORDER, Order, mean_stride, strides
from meshwright.cost.hybrid._pipeline_time import Form

AttentionMode = Literal["ring", "all_to_all"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Replica:
    """Data ranks that stand on the same kinds of devices.

    Args:
        count: how many of them.
        kinds: for every worker of the pipeline, which of the cluster's training hosts it stands on.
        examples: of a micro-batch, for each of them.
    """

    count: int
    kinds: tuple[int, ...]
    examples: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """A strategy as a search sees it.

    Args:
        mesh: degrees of the axes.
        replicas: who computes which part of a micro-batch.
        sharding: what the data axis keeps in shards.
        shards: relative size of the shards of each data rank, by replica; empty: equal ones.
        sequence: as in `Strategy`.
        attention: as in `Strategy`.
        micro_batches: of a data rank in a step.
        schedule: of the pipeline.
        bounds: unit with which each stage begins, 0 first.
        recomputed: units that are computed again in the backward, ascending.
        offload: as in `Strategy`.
        kernels: implementations.
        precision: data types.
        exchange: of gradients.
        threads: of a worker on a processor.
        order: of the mesh axes on the devices, from the one whose neighbours stand farthest apart to the nearest.
    """

    mesh: Mesh
    replicas: tuple[Replica, ...]
    sharding: Sharding = "none"
    shards: tuple[int, ...] = ()
    sequence: SequenceMode = "whole"
    attention: AttentionMode = "ring"
    micro_batches: int = 1
    schedule: Schedule = "1f1b"
    bounds: tuple[int, ...] = (0,)
    recomputed: tuple[int, ...] = ()
    offload: Offload = "none"
    kernels: Kernels = Kernels()
    precision: Precision = Precision()
    exchange: Exchange = Exchange(transport="nccl")
    threads: int = 1
    order: Order = USUAL_ORDER

    @property
    def division(self) -> Division:
        """How the model is divided among the workers of a stage."""
        return Division(tp=self.mesh.tp, sequence=self.sequence, ep=self.mesh.ep)

    def parts(self, replica: Replica | None = None) -> float:
        """In how many parts as large as a worker's what is in shards would be; infinite for one without any.

        Workers that share a sequence have the same parameters, and share out a data rank's part.

        Args:
            replica: whose data ranks; None: those with the smallest shards.
        """
        if self.sharding == "none" or not self.shards:
            return self.shard_group if self.sharding != "none" else 1
        own = min(self.shards) if replica is None else self._shard(replica)
        total = sum(one.count * size for one, size in zip(self.replicas, self.shards, strict=True))
        return total * self.mesh.cp / own if own else float("inf")

    @property
    def shard_group(self) -> int:
        """Workers that share out what is in shards: data ranks, and those that share a rank's sequences."""
        return self.mesh.dp_shard * self.mesh.cp

    @property
    def expert_group(self) -> int:
        """Workers that have the same experts."""
        return self.mesh.num_shares * self.mesh.cp // self.mesh.ep

    @property
    def expert_ratio(self) -> float:
        """In how many times as many parts as experts' shards all others are: experts are not on all data ranks."""
        if self.mesh.ep == 1 or self.sharding == "none":
            return 1.0
        return self.parts() / self.expert_group

    @property
    def fewest_parts(self) -> float:
        """As `parts`, of those with the largest shards."""
        return min(self.parts(replica) for replica in self.replicas) if self.shards else self.shard_group

    def _shard(self, replica: Replica) -> int:
        pairs = list(zip(self.replicas, self.shards, strict=True))
        same = [size for one, size in pairs if one is replica]
        return (same or [size for one, size in pairs if one == replica])[0]

    @property
    def unevenness(self) -> float:
        """How much more a link carries where shards differ, over equal ones.

        Each part goes from its owner to all others in a row: over the link to the owner of the smallest part all the
        others' parts come, 1 - s of all instead of 1 - 1/p. Through shared memory all are padded to the largest.
        """
        if not self.shards or self.mesh.dp_shard == 1:
            return 1.0
        total = sum(one.count * size for one, size in zip(self.replicas, self.shards, strict=True))
        if self.exchange.transport == "shared_memory":
            return self.mesh.dp_shard * max(self.shards) / total
        return (1 - min(self.shards) / (total * self.mesh.cp)) / (1 - 1 / self.shard_group)

    @property
    def islands(self) -> int:
        """Groups of workers that agree in every step: all workers are one, or they train apart."""
        return self.exchange.updates.islands if self.exchange.updates is not None else 1

    @property
    def steps_over_exact(self) -> float:
        """How many times the steps of exact training it takes to a loss."""
        if self.exchange.updates is None and self.schedule != "asynchronous":
            return 1.0
        return stale_steps(self.exchange.updates, late=self.mesh.pp if self.schedule == "asynchronous" else 1)

    def stride(self, axis: Axis) -> int:
        """How many devices apart neighbours on an axis stand."""
        return strides(self.mesh, self.order)[axis]

    def stride_among(self, *axes: Axis) -> int:
        """How many devices apart neighbours in a group over several axes stand, in the mean (`mean_stride`)."""
        apart = strides(self.mesh, self.order)
        return mean_stride(*((getattr(self.mesh, axis), apart[axis]) for axis in axes))

    @property
    def form(self) -> Form:
        """What the pipeline's timing depends on besides durations."""
        return Form(
            schedule=self.schedule, num_workers=self.mesh.pp, num_stages=len(self.bounds),
            micro_batches=self.micro_batches,
        )  # fmt: skip


def timing(layout: Layout) -> tuple:
    """What times of units depend on: neither stages nor, if parameters are whole, how the data axis is split.

    How gradients are sent once a step is no matter of theirs either; shards in fewer bits are.
    """
    sharded, mesh, exchange, precision = layout.sharding == "parameters", layout.mesh, layout.exchange, layout.precision
    if exchange.updates is not None or sends_less(exchange, precision):
        sent = of_gradients(exchange) if sharded else None
        exchange = replace(exchange, compression=sent, updates=None)
        precision = replace(precision, reduction="as_written")
    return (
        mesh if sharded else (mesh.pp, mesh.num_shares, mesh.cp, mesh.ep, mesh.tp), layout.order, sharded,
        (layout.replicas, layout.shards) if sharded and layout.shards else (), layout.sequence, layout.attention,
        layout.offload, layout.kernels, precision, exchange, layout.threads,
    )  # fmt: skip
