"""One kind of device and how fast it was found to be."""

from dataclasses import dataclass
from typing import Literal

from meshwright.units import Bytes, BytesPerSecond, Dollars, FLOPPerSecond, Seconds, Watts

MatrixLibrary = Literal["default", "onednn"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixRate:
    """How fast matrices are multiplied.

    Args:
        dtype: name of the data type, as torch writes it without the prefix (`float32`).
        threads: threads of the worker; 1 for an accelerator.
        library: `default` is what torch calls by itself.
        size: edge of the square matrices (elements).
        rate: FLOP/s of one process.
        exact: whether results agree with float64 as closely as the data type allows.
        processes: how many processes of the host computed at the same time while this was measured.
    """

    dtype: str
    threads: int = 1
    processes: int = 1
    library: MatrixLibrary = "default"
    size: int
    rate: FLOPPerSecond
    exact: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationRate:
    """How fast a kind of operation other than a matrix product runs: time = overhead + work / bandwidth.

    The same kind is listed at several sizes, because what fits a cache is faster than what does not; take the row
    nearest in `size`. Work and overhead mean, by kind:

    - `pointwise`, `transcendental`, `normalization`, `reduction`, `indexing`, `copy`: bytes read and written.
    - `batch_normalization` (variants `default`, `channels_last`, `backward`, `backward_channels_last`) and `pooling`
      (maximum, forward): bytes read and written; on a CPU far slower than other kinds.
    - `random`: bytes written.
    - `convolution`, `attention`, `recurrent`: FLOP, forward and backward together; `bandwidth` is FLOP/s.
    - `optimizer` (AdamW as torch runs it by default) and `optimizer_fused`: bytes of parameter, gradient and state
      read and written (28 per float32 element); `overhead` is per parameter tensor.
    - `allocation`: bytes of fresh memory touched for the first time.
    - `overhead`: one operation on a tiny tensor; `bandwidth` is 0. Variants: `default` (without autograd),
      `forward` (recorded by autograd), `backward` (one node of the backward).

    Args:
        kind: an `OperationKind` of `graph`, or `overhead`, `optimizer`, `optimizer_fused`, `allocation`.
        threads: threads of the worker.
        bandwidth: work over time of one process (B/s, or FLOP/s as above).
        overhead: fixed time of one operation of this kind (s).
        variant: how it was run: `default`, `channels_last` (convolution), `strided` (copy of a transposed tensor),
            `to_device` and `from_device` (copy between a host and its accelerator), `tanh` (transcendental: a GELU by
            tanh), `rows` and `scatter` (indexing by a tensor, and adding rows where one says). Files of earlier
            probes lack the last three; `default` stands for them.
        processes: how many processes of the host computed at the same time while this was measured.
        size: bytes that one measured operation read and wrote (B); 0 where the rate holds for any size.
    """

    kind: str
    threads: int = 1
    processes: int = 1
    size: Bytes = 0
    variant: str = "default"
    bandwidth: BytesPerSecond
    overhead: Seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A processor or an accelerator.

    Args:
        kind: torch's device type (`cpu`, `cuda`, `tpu`, …).
        name: the maker's name.
        cores: processor cores a worker may use; 1 for an accelerator.
        memory: what may be allocated (B).
        context: memory that a worker process takes before any tensor (B).
        power: thermal design power (W); 0 where unknown.
        price: per device and hour ($); 0 where unknown.
        source: where the figures come from: `measured`, or a document.
    """

    kind: str
    name: str
    cores: int = 1
    memory: Bytes
    context: Bytes = 0
    power: Watts = 0.0
    price: Dollars = 0.0
    source: str
    matrix_rates: tuple[MatrixRate, ...] = ()
    operation_rates: tuple[OperationRate, ...] = ()
