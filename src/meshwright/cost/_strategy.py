"""A strategy: every decision about how a training step runs, without its price."""

from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from meshwright.cost._compression import Compression
from meshwright.cost._mesh import Mesh
from meshwright.cost._split import Pipeline, Placement
from meshwright.cost._updates import Updates
from meshwright.hardware._device import MatrixLibrary
from meshwright.units import Bytes

Sharding = Literal["none", "optimizer", "gradients", "parameters"]
Offload = Literal["none", "state", "activations"]
TransportName = Literal["gloo", "nccl", "shared_memory", "hierarchical", "direct", "direct_packed"]
Allowance = Literal["precision", "compression", "staleness", "quantization", "sparsity"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """One process.

    Args:
        rank: its number.
        host: where it runs.
        device: torch's device (`cpu`, `cuda:0`).
        threads: threads it computes with.
        cores: processor cores it is pinned to; empty: not pinned.
    """

    rank: int
    host: str
    device: str
    threads: int
    cores: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """How the global batch is shared out.

    Args:
        size: examples per optimizer step, over all workers; what the user's loader yields.
        shares: relative share of each data rank (equal devices: equal numbers).
        accumulation: micro-batches that a data rank cuts its share into; with a pipeline they follow one another
            through its stages.
        sharing: `adaptive` shares follow what the workers turn out to do; the batch and its gradient stay the same.
    """

    size: int
    shares: tuple[int, ...]
    accumulation: int = 1
    sharing: Literal["fixed", "adaptive"] = "fixed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernels:
    """Which implementation of the same mathematics runs.

    Args:
        matrix_library: what multiplies float32 matrices on a CPU.
        optimizer: the optimizer's form; `as_written` leaves the user's.
        allocator: `retained` keeps freed memory in the process instead of giving it back at every step.
        memory_format: layout of images.
        random: who draws dropout's masks on a CPU; `sfc64` draws other masks of the same distribution, faster.
        compiled: whether `torch.compile` compiles the repeated blocks, or the model where there are none.
    """

    matrix_library: MatrixLibrary = "default"
    optimizer: Literal["as_written", "fused"] = "as_written"
    allocator: Literal["default", "retained"] = "default"
    memory_format: Literal["as_written", "channels_last"] = "as_written"
    random: Literal["default", "sfc64"] = "default"
    compiled: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Precision:
    """Data types, as torch names them; `as_written` leaves the user's.

    Args:
        parameters: that parameters are kept in.
        compute: of products.
        reduction: that gradients travel in; they are summed in float32.
    """

    parameters: str = "as_written"
    compute: str = "as_written"
    reduction: str = "as_written"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """How gradients are summed.

    Args:
        transport: what carries them; `direct`: connections between every two workers, all busy at once;
            `direct_packed`: the same, with exponents coded in fewer bits on the way, which changes no bit of the sum,
            where that is found to be faster before the first step;
            `hierarchical`: shared memory inside a host, then directly between one worker of each.
        bucket_size: gradients are sent in pieces of this size (B).
        overlap: whether pieces are sent while the backward goes on.
        compression: what is sent instead of float32; None: all of it.
        updates: how workers train apart between meetings, to which compression then applies; None: every step is
            everybody's.
    """

    transport: TransportName = "gloo"
    bucket_size: Bytes = 25 * 2**20
    overlap: bool = True
    compression: Compression | None = None
    updates: Updates | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Strategy:
    """Every decision about how a training step runs.

    Args:
        workers: one entry per process.
        mesh: degrees of the axes.
        batch: how the global batch is shared out.
        sharding: what is kept in shards: optimizer state, gradients too, parameters too.
        shards: relative size of the shards that each data rank keeps; empty: equal ones.
        recompute: paths of the blocks whose activations are computed again in the backward.
        placements: parameters that are split over a mesh axis; all others are whole on every worker of a stage.
        sequence: whether norms, dropout and residuals between split regions are split along the sequence over `tp`.
        attention: how attention over a sequence that is split over `cp` meets the other workers' keys and values.
        pipeline: stages and schedule; None with `pp` 1.
        offload: what is kept in the host's memory: `state` is the optimizer's, which comes to the device in pieces
            while parameters are updated; `activations` are what blocks save for their backward.
    """

    workers: tuple[Worker, ...]
    mesh: Mesh = Mesh()
    batch: Batch
    sharding: Sharding = "none"
    shards: tuple[int, ...] = ()
    recompute: tuple[str, ...] = ()
    placements: tuple[Placement, ...] = ()
    sequence: Literal["whole", "split"] = "whole"
    attention: Literal["ring", "all_to_all"] = "ring"
    pipeline: Pipeline | None = None
    offload: Offload = "none"
    kernels: Kernels = Kernels()
    precision: Precision = Precision()
    exchange: Exchange = Exchange()

    @property
    def num_workers(self) -> int:
        """Processes."""
        return len(self.workers)

    def shards_among(self, size: int) -> tuple[int, ...]:
        """Relative sizes of the shards of the workers that share something out.

        Args:
            size: how many they are: data ranks, each perhaps of several workers that split its sequences.
        """
        if not self.shards:
            return (1,) * size
        return tuple(share for share in self.shards for _ in range(size // len(self.shards)))

    @property
    def summary(self) -> str:
        """The choices in a line."""
        threads = self.workers[0].threads
        parts = [
            f"{self.num_workers} worker{'s' if self.num_workers > 1 else ''} × "
            f"{threads} thread{'s' if threads > 1 else ''}"
            if self.workers[0].device == "cpu"
            else f"{self.num_workers} × {self.workers[0].device.split(':')[0]}"
        ]
        if self.mesh.dp_replicate > 1:
            parts.append(f"data parallel {self.mesh.dp_replicate}")
        if self.mesh.dp_shard > 1:
            unequal = f" as {':'.join(_in_turn(self.shards))}" if self.shards else ""
            parts.append(f"{self.sharding} sharded {self.mesh.dp_shard}{unequal}")
        if self.mesh.tp > 1:
            parts.append(f"tensor {self.mesh.tp}" + (" with sequence" if self.sequence == "split" else ""))
        if self.mesh.cp > 1:
            parts.append(f"context {self.mesh.cp}")
        if self.mesh.ep > 1:
            parts.append(f"expert {self.mesh.ep}")
        if self.pipeline is not None:
            parts.append(f"pipeline {self.mesh.pp} ({self.pipeline.schedule})")
        if self.batch.accumulation > 1:
            parts.append(f"accumulation {self.batch.accumulation}")
        if self.recompute:
            parts.append(f"recompute {len(self.recompute)} blocks")
        if self.offload != "none":
            parts.append(f"{self.offload} offloaded")
        kernels = self.kernels
        parts += [
            text
            for text, on in (
                ("oneDNN matrices", kernels.matrix_library == "onednn"),
                ("fused optimizer", kernels.optimizer == "fused"),
                ("retained memory", kernels.allocator == "retained"),
                ("channels last", kernels.memory_format == "channels_last"),
                ("SFC64 masks", kernels.random == "sfc64"),
                ("compiled", kernels.compiled),
                (f"{self.precision.compute} compute", self.precision.compute != "as_written"),
                (f"{self.exchange.transport} exchange", self.num_workers > 1),
                (f"{self.precision.reduction} reduction", self.precision.reduction != "as_written"),
                (self.exchange.updates.summary if self.exchange.updates else "", self.exchange.updates),
                (self.exchange.compression.summary if self.exchange.compression else "", self.exchange.compression),
            )
            if on
        ]
        return ", ".join(parts)


def _in_turn(shares: tuple[int, ...]) -> list[str]:
    """Numbers, with how often each comes in a row where that is more than once."""
    runs = [(share, len(list(same))) for share, same in groupby(shares)]
    return [str(share) if count == 1 else f"{count}×{share}" for share, count in runs]
