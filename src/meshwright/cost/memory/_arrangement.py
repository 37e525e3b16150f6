"""How a transformer that is known by its dimensions is laid out over workers, as far as memory depends on it."""

from dataclasses import dataclass
from typing import Literal

from meshwright.cost._mesh import Mesh
from meshwright.cost._split import Schedule
from meshwright.cost._strategy import Sharding

Recomputation = Literal["none", "selective", "full"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrangement:
    """Degrees, batch and what is kept.

    Args:
        mesh: degree of each axis.
        sharding: what `dp_shard` keeps in shards.
        sequence: whether what lies between tensor-parallel regions is split along the sequence over `tp`.
        recomputation: `selective` leaves out scores of attention, or what a convention says it leaves out.
        computed_again: share of a layer's saved activations that is computed again, one per stage; empty: as
            `recomputation` says.
        micro_batch: sequences of one forward of a model replica.
        micro_batches: of a data rank in a step.
        schedule: of the pipeline.
        virtual: stages per pipeline worker.
        layers: of each stage, in parts where stages are cut inside of layers; empty: as the conventions place them.
        element: size of a number in compute (B).
        attention: `fused` keeps no scores.
        dropout: whether masks are kept.
        optimizer_on: where the optimizer's state lives.
        lead: doublings by which a device takes longer for a layer than its host does to launch it; minus infinity where
            the host waits for messages.
    """

    mesh: Mesh = Mesh()
    sharding: Sharding = "none"
    sequence: Literal["whole", "split"] = "whole"
    recomputation: Recomputation = "none"
    computed_again: tuple[float, ...] = ()
    micro_batch: float = 1.0
    micro_batches: int = 1
    schedule: Schedule = "1f1b"
    virtual: int = 1
    layers: tuple[float, ...] = ()
    element: float = 2.0
    attention: Literal["fused", "scores"] = "fused"
    dropout: Literal["on", "off"] = "off"
    optimizer_on: Literal["device", "host"] = "device"
    lead: float = 0.0

    @property
    def data_degree(self) -> int:
        """Replicas of a stage, sharded or not."""
        return self.mesh.dp_replicate * self.mesh.dp_shard

    def shards(self, level: Sharding) -> int:
        """Into how many parts something is cut that is kept in shards from a level on.

        Workers that share a sequence have the same parameters, so that shards are spread over `cp` too.
        """
        levels: tuple[Sharding, ...] = ("none", "optimizer", "gradients", "parameters")
        return self.mesh.dp_shard * self.mesh.cp if levels.index(self.sharding) >= levels.index(level) else 1

    def expert_shards(self, level: Sharding) -> float:
        """The same for experts, which as many times fewer workers have as there are owners of different ones."""
        return max(1.0, self.shards(level) / self.mesh.ep)

    def under_way(self, stage: int) -> float:
        """Micro-batches whose activations a pipeline worker holds at most, in forwards of all its layers.

        Source: 1F1B holds one per worker still to come (Narayanan et al. 2019); interleaved stages hold
        $2 (p - i - 1) + (v - 1) p + 1$ of $v$ parts (Narayanan et al. 2021, section 2.2).

        Args:
            stage: the worker's place in the pipeline.
        """
        behind, virtual = self.mesh.pp - stage, self.virtual
        if self.schedule == "gpipe":
            return self.micro_batches
        if virtual > 1 and self.mesh.pp > 1:
            parts = 2 * (behind - 1) + (virtual - 1) * self.mesh.pp + 1
            return min(self.micro_batches * virtual, parts) / virtual
        return min(behind, self.micro_batches)
