"""How long the operations of one micro-batch take on one worker.

    matrix                             max(FLOP / rate(edge), bytes / copy bandwidth) + autograd
    convolution, attention, recurrent  FLOP / rate(bytes) + overhead + autograd
    view                               overhead + autograd
    all others                         bytes / bandwidth(bytes) + overhead + autograd

`edge` is the cube root of rows × inner × columns, the cube of the same work. A matrix rate is measured with its
launch, so only what autograd adds to a launch is added; that is the difference between the measured overheads of an
operation that is recorded and one that is not, and between a node of the backward and a bare operation.
"""

from dataclasses import dataclass

import numpy as np

from meshwright.cost._rates import Rates
from meshwright.cost._strategy import Kernels, Precision
from meshwright.cost._workload import ITEM_SIZES, Column, Index, Workload
from meshwright.units import Seconds

FLOP_KINDS = ("convolution", "attention", "recurrent")
LOWERED_KINDS = ("matrix", *FLOP_KINDS)
# Of the faster mask source (numerics/_random.py, measured there against torch's): how many times as fast, what seeding
# a mask takes, and the smallest mask it is used for (B, of float32).
_SFC64_SPEEDUP = 5.0
_SFC64_SEEDING: Seconds = 15e-6
_SFC64_SMALLEST = 2**16


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeTime:
    """One micro-batch on one worker, without exchange.

    Args:
        forward: forward and loss (s).
        operations: each backward operation's time, in the backward's order (s; one instance of a repeated one).
        backward: all instances of them, and fresh memory for the gradients (s).
        recompute: forward operations done again in the backward (s).
    """

    forward: Seconds
    operations: Column
    backward: Seconds
    recompute: Seconds


def compute_time(
    workload: Workload,
    rates: Rates,
    *,
    kernels: Kernels,
    precision: Precision,
    examples: float,
    recompute: tuple[str, ...] = (),
) -> ComputeTime:
    """Time of the forward and backward of one micro-batch.

    Args:
        examples: in the micro-batch.
        recompute: paths of blocks whose forward runs again in the backward.
    """
    times = operation_times(workload, rates, kernels=kernels, precision=precision, examples=examples)
    forward, backward = times[workload.forward], times[workload.backward]
    again = 0.0
    if recompute:
        inside = workload.in_blocks(recompute)[workload.forward]
        share = len(recompute) / max(1, len(workload.blocks))
        again = float((forward * workload.repeats[workload.forward])[inside].sum()) * share
    fresh_forward, fresh_backward = _fresh_memory_time(workload, rates, kernels=kernels, examples=examples)
    return ComputeTime(
        forward=float((forward * workload.repeats[workload.forward]).sum()) + fresh_forward,
        operations=backward,
        backward=float((backward * workload.repeats[workload.backward]).sum()) + fresh_backward,
        recompute=again,
    )


def operation_times(
    workload: Workload, rates: Rates, *, kernels: Kernels, precision: Precision, examples: float
) -> Column:
    """Time of every operation of the graph (s; one instance of a repeated one)."""
    flops = workload.flops.at(examples)
    sizes = workload.bytes_read.at(examples) + workload.bytes_written.at(examples)
    times = np.zeros(len(flops))
    for (kind, dtype), rows in workload.groups.items():
        lowered = kind in LOWERED_KINDS and precision.compute != "as_written" and dtype == "float32"
        used = precision.compute if lowered else dtype
        scale = ITEM_SIZES[used] / ITEM_SIZES.get(dtype, 4)
        if kind == "matrix":
            times[rows] = _matrix_times(workload, rates, rows, used, kernels, examples)
            moved = sizes[rows] * scale / rates.bandwidth("copy", sizes[rows] * scale)
            times[rows] = np.maximum(times[rows], moved)
        elif kind in FLOP_KINDS:
            times[rows] = _flop_times(rates, kind, flops[rows], sizes[rows], kernels, dtype=dtype, used=used)
        elif kind == "view":
            times[rows] = rates.overhead("overhead")
        elif kind == "random":
            times[rows] = _mask_times(rates, workload.bytes_written.at(examples)[rows], kernels)
        else:
            times[rows] = sizes[rows] / rates.bandwidth(kind, sizes[rows]) + _launch(rates, kind)
        if lowered:
            times[rows] += _cast_times(workload, rates, rows, scale, examples)
    return times + _autograd_times(workload, rates)


def _matrix_times(
    workload: Workload, rates: Rates, rows: Index, dtype: str, kernels: Kernels, examples: float
) -> Column:
    lengths = [side.at(examples)[rows] for side in workload.edges]
    edges = np.cbrt(lengths[0] * lengths[1] * lengths[2])
    library = kernels.matrix_library if dtype == "float32" else "default"
    known = dtype if rates.has_matrix(dtype) else "float32"
    return workload.flops.at(examples)[rows] / rates.matrix(known, library, edges)


def _flop_times(
    rates: Rates, kind: str, flops: Column, sizes: Column, kernels: Kernels, *, dtype: str, used: str
) -> Column:
    """Kinds measured in FLOP/s in float32; another data type is faster as its matrices are.

    A device without a rate of its own for the kind runs it as matrices of the same work.
    """
    if not rates.has(kind):
        known = used if rates.has_matrix(used) else "float32"
        return flops / rates.matrix(known, "default", np.cbrt(flops / 2)) + rates.overhead("overhead")
    variant = "channels_last" if kind == "convolution" and kernels.memory_format == "channels_last" else "default"
    times = flops / rates.bandwidth(kind, sizes, variant=variant)
    if used != dtype and rates.has_matrix(used):
        edges = np.cbrt(flops / 2)
        times *= rates.matrix(dtype, "default", edges) / rates.matrix(used, "default", edges)
    return times + _launch(rates, kind)


def _mask_times(rates: Rates, sizes: Column, kernels: Kernels) -> Column:
    """Random numbers by bytes written; large masks are drawn by the faster source where the strategy has it."""
    times = sizes / rates.bandwidth("random", sizes) + _launch(rates, "random")
    if kernels.random == "default":
        return times
    faster = times / _SFC64_SPEEDUP + _SFC64_SEEDING
    return np.where(sizes >= _SFC64_SMALLEST, faster, times)


def _cast_times(workload: Workload, rates: Rates, rows: Index, scale: float, examples: float) -> Column:
    """Autocast reads each input in full and writes it in the lower precision before the operation."""
    sizes = workload.bytes_read.at(examples)[rows]
    return sizes * (1 + scale) / rates.bandwidth("copy", sizes) + rates.overhead("overhead")


def _launch(rates: Rates, kind: str) -> Seconds:
    return rates.overhead(kind) or rates.overhead("overhead")


def _autograd_times(workload: Workload, rates: Rates) -> Column:
    """What recording and running the backward's nodes adds: one node per forward operation, spread evenly."""
    bare = rates.overhead("overhead")
    recorded = max(0.0, rates.overhead("overhead", variant="forward") - bare)
    node = max(0.0, rates.overhead("overhead", variant="backward") - bare)
    times = np.zeros(len(workload.repeats))
    times[workload.forward] = recorded
    launches = workload.repeats[workload.backward].sum()
    if launches:
        times[workload.backward] = node * workload.repeats[workload.forward].sum() / launches
    return times


def _fresh_memory_time(
    workload: Workload, rates: Rates, *, kernels: Kernels, examples: float
) -> tuple[Seconds, Seconds]:
    """What the operating system takes to hand out memory that the process had given back in the step before.

    Saved activations in the forward, gradients and what is alive besides in the backward. Nothing where memory is
    retained, nor on a device whose allocator keeps it anyway.
    """
    if kernels.allocator == "retained" or not rates.has("allocation"):
        return 0.0, 0.0
    saved = saved_size(workload, examples)
    sizes = np.array([saved, workload.gradient_size + workload.graph.transient.at(examples)])
    spent = sizes / rates.bandwidth("allocation", sizes)
    return float(spent[0]), float(spent[1])


def saved_size(workload: Workload, examples: float) -> float:
    """Activations that the forward of a micro-batch leaves for the backward (B)."""
    return sum(item.size.at(examples) * item.repeats for item in workload.graph.activations)


def optimizer_time(workload: Workload, rates: Rates, *, kernels: Kernels, shards: int) -> Seconds:
    r"""Time of the update.

    $t = \text{tensors} · \text{overhead} + \text{elements} · (12 + 2·\text{state}) / \text{bandwidth}$: parameter and
    gradient are read, the parameter is written, the state is read and written; shared out among `shards` workers.
    """
    state = workload.graph.optimizer
    kind = "optimizer_fused" if kernels.optimizer == "fused" and state.fused else "optimizer"
    moved = workload.trainable_elements * (12 + 2 * state.bytes_per_element)
    per_tensor = np.array([moved / max(1, workload.trainable_tensors)])
    launches = workload.trainable_tensors * rates.overhead(kind)
    return (launches + moved / float(rates.bandwidth(kind, per_tensor)[0])) / shards
