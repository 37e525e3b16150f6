"""How a transformer is trained: everything about a strategy that its step time on accelerators depends on."""

from dataclasses import dataclass
from typing import Literal

from meshwright.cost._strategy import Sharding
from meshwright.graph import Transformer

Recomputation = Literal["none", "selective", "full"]
# 32-bit products: `single` in TF32 where a device has it, `plain` without.
MatrixType = Literal["half", "float8", "float8_rows", "single", "plain"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """A transformer, how it is split, and how it is run.

    Args:
        model: dimensions.
        micro_batch: sequences per model replica and forward.
        micro_batches: of a replica in a step.
        tp: tensor degree.
        sequence_split: whether what lies between tensor-parallel regions is split along the sequence.
        pp: pipeline degree.
        stages_per_worker: of an interleaved pipeline.
        layers: of every pipeline worker, in parts where stages are cut inside of layers; empty: as the framework
            places them.
        cp: context degree.
        ep: expert degree, inside `dp`, and inside `tp` as far as experts are not split over that.
        etp: tensor degree of experts; 0: `tp`.
        dp: data degree.
        sharding: what the data axis keeps in shards.
        recomputation: of activations.
        computed_again: share of a layer's forward that is done again, one per pipeline worker; empty: as
            `recomputation` says.
        matrix_type: of the inputs of matrix products.
        compiled: whether a compiler fuses what lies between them.
        fused_attention: whether attention keeps no scores.
        framework: class of habits.
        gradient_bytes: of an element of a gradient on the network (B); 0: as the framework's habits say.
        timed: whether every tensor-parallel exchange is timed, for which host and device wait for each other.
        fullness: share of a device's memory that the fullest worker asks for, with all that waits for other streams;
            more than 1 where the allocator has to wait for it; 0: not known.
    """

    model: Transformer
    micro_batch: float
    micro_batches: int
    tp: int = 1
    sequence_split: bool = False
    pp: int = 1
    stages_per_worker: int = 1
    layers: tuple[float, ...] = ()
    cp: int = 1
    ep: int = 1
    etp: int = 0
    dp: int = 1
    sharding: Sharding = "none"
    recomputation: Recomputation = "none"
    computed_again: tuple[float, ...] = ()
    matrix_type: MatrixType = "half"
    compiled: bool = False
    fused_attention: bool = True
    framework: str = "other"
    gradient_bytes: float = 0.0
    timed: bool = False
    fullness: float = 0.0

    @property
    def tokens(self) -> float:
        """Of one micro-batch on one worker."""
        return self.micro_batch * self.model.sequence / self.cp

    @property
    def item_size(self) -> int:
        """Bytes of an element of an activation."""
        return 4 if self.matrix_type in ("single", "plain") else 2

    @property
    def layer_parameters(self) -> float:
        """Of one layer on one worker, before they are sharded."""
        experts = max(1.0, self.model.experts / self.ep)
        return self.model.attention_parameters / self.tp + self.model.expert_parameters * experts / self.expert_tensor

    @property
    def expert_tensor(self) -> int:
        """Over how many workers an expert is split."""
        return self.etp if self.etp and self.model.experts else self.tp
