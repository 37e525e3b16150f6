"""How fast operations that are limited by memory run: bytes over time, by kind and size."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

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
    overheads = {(case.kind, case.variant): timer(case.run) for case in operation_cases(ROW, device)}
    return [
        _rate(case, timer(case.run), threads=threads, processes=processes, overhead=overheads[case.kind, case.variant])
        for size in SIZES
        for case in operation_cases(size, device)
    ]


def operation_cases(size: Bytes, device: torch.device) -> Iterator[OperationCase]:
    """Operations of every kind on tensors of `size` bytes."""
    rows = size // ROW
    x, y = torch.randn(rows, WIDTH, device=device), torch.randn(rows, WIDTH, device=device)
    weight, bias = torch.ones(WIDTH, device=device), torch.zeros(WIDTH, device=device)
    indices = torch.randint(rows, (rows,), device=device)
    mask = torch.empty_like(x)
    yield OperationCase(kind="pointwise", work_bytes=3 * size, touched=3 * size, run=lambda: x + y)
    yield OperationCase(kind="transcendental", work_bytes=2 * size, touched=2 * size, run=lambda: F.gelu(x))
    yield OperationCase(
        kind="normalization", work_bytes=2 * size, touched=2 * size,
        run=lambda: F.layer_norm(x, (WIDTH,), weight, bias),
    )  # fmt: skip
    yield OperationCase(kind="reduction", work_bytes=size, touched=size, run=lambda: x.sum(dim=-1))
    if size < SIZES[-1]:  # its generator limits it, so that a large tensor would tell nothing new, slowly
        yield OperationCase(kind="random", work_bytes=size, touched=size, run=lambda: mask.bernoulli_(0.9))
    yield OperationCase(kind="indexing", work_bytes=2 * size, touched=2 * size, run=lambda: F.embedding(indices, x))
    yield OperationCase(kind="copy", work_bytes=2 * size, touched=2 * size, run=x.clone)
    yield OperationCase(
        kind="copy", work_bytes=2 * size, touched=2 * size, run=lambda: x.t().contiguous(), variant="strided"
    )


def _rate(case: OperationCase, duration: Seconds, *, threads: int, processes: int, overhead: Seconds) -> OperationRate:
    """The row of a timed case; a tenth of the time is work at least, lest noise in the overhead make it infinite."""
    return OperationRate(
        kind=case.kind, threads=threads, processes=processes, size=case.touched, variant=case.variant,
        bandwidth=case.work_bytes / max(duration - overhead, 0.1 * duration), overhead=overhead,
    )  # fmt: skip
