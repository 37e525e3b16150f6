"""How long the operations of one micro-batch take on one worker.

    matrix                             max(FLOP / rate(edge), bytes / copy bandwidth) + autograd
    convolution, attention, recurrent  FLOP / rate(bytes) + overhead + autograd
    view                               overhead + autograd; nothing in the backward, which runs no Python
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
from meshwright.units import MIB, Seconds

FLOP_KINDS = ("convolution", "attention", "recurrent")
LOWERED_KINDS = ("matrix", *FLOP_KINDS)
# Operations on images with rates of their own: part of torch's name, kind of rate, phase.
_SLOW_IMAGE_OPERATIONS = (
    ("batch_norm", "batch_normalization", "forward"),
    ("batch_norm", "batch_normalization", "backward"),
    ("max_pool", "pooling", "forward"),
)
# Operations whose rate is far from that of their kind: torch's names, kind, variant.
_VARIANTS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("aten.tanh", "aten.gelu_tanh", "aten.gelu_backward_tanh"), "transcendental", "tanh"),
    (("aten.index", "aten.gather", "aten.index_select", "aten.take_along_dim"), "indexing", "rows"),
    (
        ("aten.index_put", "aten.index_put_", "aten._index_put_impl_", "aten.index_add", "aten.index_add_",
         "aten.scatter_add", "aten.scatter_add_"),
        "indexing", "scatter",
    ),
)  # fmt: skip
# Products that go to another matrix library (numerics/_matrix_library.py): multiplications and shortest edge at least;
# the rest stays with torch's own.
_SMALLEST_PRODUCT = 2**21
_SMALLEST_EDGE = 8
# What asking whether it is one of them adds to a product that stays: 0.03 ms over the 8 of a small network here.
_ASKING: Seconds = 4e-6
# Of the faster mask source (numerics/_random.py, measured there against torch's): how many times as fast, what seeding
# a mask takes, and the smallest mask it is used for (B, of float32).
_SFC64_SPEEDUP = 5.0
_SFC64_SEEDING: Seconds = 15e-6
_SFC64_SMALLEST = 2**16
# glibc's DEFAULT_MMAP_THRESHOLD_MAX on 64-bit systems: larger blocks are mapped and unmapped each time (B).
_LARGEST_KEPT = 32 * MIB
# The optimizer's Python per tensor, in launches: AdamW (12 launches) took 18.8 µs and SGD (2) 10 µs a tensor here.
_BOOKKEEPING = 8
_ADAMW_LAUNCHES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeTime:
    """One micro-batch on one worker, without exchange.

    Args:
        forward: forward and loss (s).
        operations: each backward operation's time, in the backward's order (s; one instance of a repeated one).
        backward: all instances of them (s).
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
    return ComputeTime(
        forward=float((forward * workload.repeats[workload.forward]).sum()),
        operations=backward,
        backward=float((backward * workload.repeats[workload.backward]).sum()),
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
            times[rows] = np.where(workload.in_forward[rows], rates.overhead("overhead"), 0.0)
        elif kind == "random":
            times[rows] = _mask_times(rates, workload.bytes_written.at(examples)[rows], kernels)
        else:
            times[rows] = _moving_times(workload, rates, rows, kind, sizes[rows], kernels)
        if lowered:
            times[rows] += _cast_times(workload, rates, rows, scale, examples)
    if kernels.compiled and rates.device.kind != "cpu":
        times = _fused_times(workload, times)
    fresh = _fresh_memory_times(workload, rates, kernels=kernels, examples=examples)
    return times + fresh + _autograd_times(workload, rates)


def _matrix_times(
    workload: Workload, rates: Rates, rows: Index, dtype: str, kernels: Kernels, examples: float
) -> Column:
    height, inner, columns = (side.at(examples)[rows] for side in workload.edges)
    work = workload.flops.at(examples)[rows]
    edges = np.cbrt(height * inner * columns)
    known = dtype if rates.has_matrix(dtype) else "float32"
    times = work / rates.matrix(known, "default", edges)
    if kernels.matrix_library == "default" or dtype != "float32":
        return times
    taken = (
        ~workload.named("bmm")[rows]
        & (height * inner * columns >= _SMALLEST_PRODUCT)
        & (np.minimum(np.minimum(height, inner), columns) >= _SMALLEST_EDGE)
    )
    return np.where(taken, work / rates.matrix(known, kernels.matrix_library, edges), times + _ASKING)


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


def _moving_times(workload: Workload, rates: Rates, rows: Index, kind: str, sizes: Column, kernels: Kernels) -> Column:
    """Kinds limited by memory; batch normalization and pooling of images by rates of their own where measured."""
    times = sizes / rates.bandwidth(kind, sizes) + _launch(rates, kind)
    for names, varied, variant in _VARIANTS:
        if varied == kind and rates.has(kind, variant=variant):
            found = np.isin(workload.names[rows], names)
            moved = sizes / rates.bandwidth(kind, sizes, variant=variant) + _launch(rates, kind)
            times = np.where(found, moved, times)
    layout = kernels.memory_format if kernels.memory_format == "channels_last" else "default"
    for name, slow, phase in _SLOW_IMAGE_OPERATIONS:
        variant = layout if phase == "forward" else "backward" if layout == "default" else f"backward_{layout}"
        if not rates.has(slow, variant=variant):
            continue
        found = workload.named(name)[rows] & (workload.in_forward[rows] == (phase == "forward"))
        moved = sizes / rates.bandwidth(slow, sizes, variant=variant) + _launch(rates, kind)
        times = np.where(found, moved, times)
    return times


def _mask_times(rates: Rates, sizes: Column, kernels: Kernels) -> Column:
    """Random numbers by bytes written; large masks are drawn by the faster source where the strategy has it."""
    times = sizes / rates.bandwidth("random", sizes) + _launch(rates, "random")
    if kernels.random == "default":
        return times
    faster = times / _SFC64_SPEEDUP + _SFC64_SEEDING
    return np.where(sizes >= _SFC64_SMALLEST, faster, times)


def _fused_times(workload: Workload, times: Column) -> Column:
    """A compiled stretch of operations limited by memory moves what its largest operation moves, in one launch.

    On a CPU compiling the example models changed their steps by less than 5 %, so that nothing is taken off there.
    """
    fused = times.copy()
    for first, end in workload.fusible_runs:
        fused[first:end] = times[first:end].max() / (end - first)
    return fused


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


def _fresh_memory_times(workload: Workload, rates: Rates, *, kernels: Kernels, examples: float) -> Column:
    """What the operating system takes to hand out an operation's output again that was given back before.

    glibc keeps what is freed, except tensors over its largest threshold: those come from the system each time (seen
    in page faults: 320 MB a step for a GPT with two 65 MB logits, none for models with smaller tensors). Nothing
    where memory is retained, nor on a device whose allocator keeps it anyway.
    """
    sizes = workload.bytes_written.at(examples)
    returned = workload.allocates & (sizes > _LARGEST_KEPT)
    if kernels.allocator == "retained" or not rates.has("allocation") or not returned.any():
        return np.zeros(len(sizes))
    return np.where(returned, sizes / rates.bandwidth("allocation", sizes), 0.0)


def optimizer_time(workload: Workload, rates: Rates, *, kernels: Kernels, shards: float) -> Seconds:
    r"""Time of the update, shared out among `shards` workers.

    $t = \text{tensors} · \text{overhead} · \frac{\text{launches} + 8}{12 + 8}
       + \text{elements} · (12 + 2·\text{state}) / \text{bandwidth}$: parameter and gradient are read, the parameter is
    written, the state is read and written.
    """
    state = workload.graph.optimizer
    kind = "optimizer_fused" if kernels.optimizer == "fused" and state.fused else "optimizer"
    moved = workload.trainable_elements * (12 + 2 * state.bytes_per_element)
    per_tensor = np.array([moved / max(1, workload.trainable_tensors)])
    calls = (state.operations + _BOOKKEEPING) / (_ADAMW_LAUNCHES + _BOOKKEEPING) if kind == "optimizer" else 1.0
    launches = workload.trainable_tensors * rates.overhead(kind) * calls
    return (launches + moved / float(rates.bandwidth(kind, per_tensor)[0])) / shards
