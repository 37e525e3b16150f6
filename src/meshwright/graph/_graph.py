"""What one training step does, for any batch size."""

from dataclasses import dataclass
from typing import Literal

from meshwright.graph._linear import Linear
from meshwright.graph._splits import Phase, Splits

OperationKind = Literal[
    "matrix", "convolution", "attention", "recurrent", "normalization", "pointwise", "transcendental",
    "reduction", "random", "indexing", "copy", "view", "other",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixShape:
    """`batch` products of `rows × inner` by `inner × columns`."""

    batch: Linear
    rows: Linear
    inner: Linear
    columns: Linear


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One operation of the step.

    Args:
        name: torch's name (`aten.addmm`).
        kind: what limits it; decides which measured rate prices it.
        phase: forward or backward.
        module: path of the module that runs it (`transformer.h.0.attn`); empty for the loss.
        dtype: of its first output.
        repeats: how many equal instances (of a repeated block) run it.
        flops: FLOP.
        bytes_read: B.
        bytes_written: B.
        matrix: shape of the product, for `matrix`; for `attention` of queries by keys, `batch` counting heads.
    """

    name: str
    kind: OperationKind
    phase: Phase
    module: str
    dtype: str
    repeats: int = 1
    flops: Linear
    bytes_read: Linear
    bytes_written: Linear
    matrix: MatrixShape | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """A parameter; tied ones have several paths.

    Args:
        paths: every name in the model.
        shape: elements per dim.
        dtype: data type.
        trainable: whether it gets a gradient.
        repeats: how many equal instances (of a repeated block) have one.
    """

    paths: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    trainable: bool = True
    repeats: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Activation:
    """A tensor that the forward saves for the backward.

    Args:
        module: path of the module that saves it.
        size: B.
        created: index of the operation that makes it.
        freed: index of the operation that last uses it.
        repeats: how many equal instances.
    """

    module: str
    size: Linear
    created: int
    freed: int
    repeats: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Modules of equal structure that were captured once.

    Args:
        paths: of all instances, in order of execution.
        kind: class name.
        input_size: tensors that one instance is given (B); what recomputation keeps instead of its activations.
    """

    paths: tuple[str, ...]
    kind: str
    input_size: Linear = Linear()


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerState:
    """What the optimizer keeps.

    Args:
        name: class name.
        bytes_per_element: state per trainable element (B).
        fused: whether torch has a fused form of it for this device.
        operations: launches per parameter and step in its default form.
    """

    name: str
    bytes_per_element: float
    fused: bool
    operations: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """The whole training step: model, loss, backward, optimizer.

    Args:
        model: class name.
        batch_size: examples it was captured at.
        operations: in order of execution; repeated blocks stand once.
        parameters: every parameter; repeated blocks' stand once.
        activations: saved for the backward.
        transient: most that is alive besides parameters, gradients, state and activations (B).
        peak: most that is alive at one time besides parameters, state, buffers and batch, in a step that starts without
            gradients (B). At most activations + gradients + transient, whose maxima come at different times.
        buffer_size: buffers (B).
        batch_bytes: the batch itself (B).
        blocks: repeated blocks.
        optimizer: what the optimizer keeps.
        traits: facts that decide which plans are legal: `batch_norm` (modules that normalize over the batch while
            training), `batch_statistics` (the same outside of such a module, where nothing can be put in its place),
            `random`, `weighted_loss`, `tied_parameters`, `data_dependent` (what a step does depends on values in the
            batch), `recurrent`, `convolution`, `causal_attention` (all attention is, without a mask), `tf32` (32-bit
            products may run in TF32, as the script says).
        gaps: constructs that could not be captured whole, each with what was done instead.
        splits: how the model itself could be split over workers; None where nobody found out.
    """

    model: str
    batch_size: int
    operations: tuple[Operation, ...]
    parameters: tuple[Parameter, ...]
    activations: tuple[Activation, ...]
    transient: Linear
    peak: Linear = Linear()
    buffer_size: int = 0
    batch_bytes: Linear
    blocks: tuple[Block, ...] = ()
    optimizer: OptimizerState
    traits: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()
    splits: Splits | None = None

    @property
    def block_paths(self) -> tuple[str, ...]:
        """Paths of all repeated blocks."""
        return tuple(path for block in self.blocks for path in block.paths)
