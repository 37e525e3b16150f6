"""How fast operations that are limited by memory run: bytes over time, by kind and size.

A step touches far more than a cache holds. What an operation is given was made or saved a while ago; what it makes
goes where something was freed just now. So each call here reads another part of a block that no cache holds, and writes
to memory that the call before it gave back. Timed on one tensor again and again, a GPT's additions seemed four times as
fast as they are in its step.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor
from torch.nn import functional as F

from meshwright.hardware._device import OperationRate
from meshwright.hardware.probe_timer import Timer
from meshwright.units import KIB, MIB, Bytes, Seconds

SIZES: tuple[Bytes, ...] = (128 * KIB, 2 * MIB, 32 * MIB)
WIDTH = 256  # elements of a row, as of a small model's hidden size
FLOAT: Bytes = 4
ROW: Bytes = FLOAT * WIDTH
# More than a processor's last cache lends to one process; every call reads another part of it.
BLOCK: Bytes = 64 * MIB
# Scattered rows are added one by one: a large tensor would tell nothing new, slowly. So would its random numbers.
SLOW_KINDS = (("random", "default"), ("indexing", "scatter"))


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationCase:
    """One operation to time.

    Args:
        kind: which rate it gives.
        work_bytes: bytes that count as its work (B).
        touched: bytes it reads and writes (B).
        run: does it once.
        variant: how it is run.
    """

    kind: str
    work_bytes: Bytes
    touched: Bytes
    run: Callable[[], Tensor]
    variant: str = "default"


def operation_rates(timer: Timer, *, device: torch.device, threads: int, processes: int) -> list[OperationRate]:
    """Rates of pointwise, transcendental, normalization, reduction, random, indexing and copy operations.

    Each kind's overhead is its time on a single row; it is taken off before bytes are divided by time. The output's
    memory is in the process already (see `retain_memory`); touching fresh memory is `allocation`.

    Args:
        timer: measures.
        device: where the tensors are.
        threads: what the rows say.
        processes: what the rows say.
    """
    block = torch.randn(BLOCK // ROW, WIDTH, device=device)
    overheads = {(case.kind, case.variant): timer(case.run) for case in operation_cases(ROW, device, block=block[:1])}
    return [
        _rate(case, timer(case.run), threads=threads, processes=processes, overhead=overheads[case.kind, case.variant])
        for size in SIZES
        for case in operation_cases(size, device, block=block)
        if size < SIZES[-1] or (case.kind, case.variant) not in SLOW_KINDS
    ]


def operation_cases(size: Bytes, device: torch.device, *, block: Tensor) -> Iterator[OperationCase]:
    """Operations of every kind on tensors of `size` bytes.

    Args:
        size: of each tensor (B).
        device: where the tensors are.
        block: rows that calls read in turn, as many at a time as `size` has.
    """
    rows = size // ROW
    parts = cycle(block[: len(block) // rows * rows].view(-1, rows, WIDTH).unbind())
    other, mask = torch.randn(rows, WIDTH, device=device), torch.empty(rows, WIDTH, device=device)
    weight, bias = torch.ones(WIDTH, device=device), torch.zeros(WIDTH, device=device)
    indices = torch.randint(rows, (rows,), device=device)
    yield OperationCase(kind="pointwise", work_bytes=3 * size, touched=3 * size, run=lambda: next(parts) + other)
    yield OperationCase(kind="reduction", work_bytes=size, touched=size, run=lambda: next(parts).sum(dim=-1))
    yield OperationCase(kind="random", work_bytes=size, touched=size, run=lambda: mask.bernoulli_(0.9))
    moving: dict[tuple[str, str], Callable[[], Tensor]] = {
        ("transcendental", "default"): lambda: F.gelu(next(parts)),
        ("transcendental", "tanh"): lambda: F.gelu(next(parts), approximate="tanh"),
        ("normalization", "default"): lambda: F.layer_norm(next(parts), (WIDTH,), weight, bias),
        ("indexing", "default"): lambda: F.embedding(indices, next(parts)),
        ("indexing", "rows"): lambda: next(parts)[indices],
        ("copy", "default"): lambda: next(parts).clone(),
        ("copy", "strided"): lambda: next(parts).t().contiguous(),
    }
    for (kind, variant), run in moving.items():
        yield OperationCase(kind=kind, work_bytes=2 * size, touched=2 * size, run=run, variant=variant)
    yield OperationCase(
        kind="indexing", work_bytes=3 * size, touched=3 * size, variant="scatter",
        run=lambda: mask.index_put_((indices,), next(parts), accumulate=True),
    )  # fmt: skip


def _rate(case: OperationCase, duration: Seconds, *, threads: int, processes: int, overhead: Seconds) -> OperationRate:
    """The row of a timed case; a tenth of the time is work at least, lest noise in the overhead make it infinite."""
    return OperationRate(
        kind=case.kind, threads=threads, processes=processes, size=case.touched, variant=case.variant,
        bandwidth=case.work_bytes / max(duration - overhead, 0.1 * duration), overhead=overhead,
    )  # fmt: skip
