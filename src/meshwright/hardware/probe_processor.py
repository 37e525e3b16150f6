"""What this host's processor does, for every number of threads and every number of processes beside each other."""

import ctypes
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch

from meshwright.hardware._device import MatrixRate, OperationRate
from meshwright.hardware.probe_layers import layer_rates
from meshwright.hardware.probe_matrices import MatrixCase, matrix_rates, processor_cases, same_cases
from meshwright.hardware.probe_operations import operation_rates
from meshwright.hardware.probe_timer import Timer
from meshwright.hardware.probe_training import allocation_rate, optimizer_rates, overhead_rates
from meshwright.hardware.probe_workers import Crew, Member, pinned
from meshwright.units import GIB, Seconds

CPU = torch.device("cpu")
LONGEST_IN_BUDGETS = 2  # a product that takes longer than so many budgets is left out
_MALLOPT_TRIM_THRESHOLD, _MALLOPT_MMAP_THRESHOLD = -1, -3


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessorRates:
    """Everything timed in one setting."""

    matrices: list[MatrixRate]
    operations: list[OperationRate]


def thread_counts(cores: int) -> list[int]:
    """Powers of two up to the cores, and the cores: 6 → 1, 2, 4, 6."""
    powers = [2**exponent for exponent in range(cores.bit_length()) if 2**exponent < cores]
    return [*powers, cores]


def processor_rates(
    crew: Crew, *, cores: Sequence[int], budget: Seconds, progress: Callable[[str], object]
) -> ProcessorRates:
    """Rates for one process with every number of threads, then for several processes of one thread each.

    Args:
        crew: processes to measure with; at least as many as cores.
        cores: their numbers.
        budget: for one timed piece of work (s).
        progress: told what is being measured.
    """
    counts = thread_counts(len(cores))
    matrices, operations = [], []
    cases = list(processor_cases())
    for threads in counts:
        progress(f"one process with {threads} thread{'s' if threads > 1 else ''}")
        rates = setting_rates(Member(rank=0, group=1, together=int), cases, threads, (), budget)
        matrices += rates.matrices
        operations += rates.operations
        if threads == 1:
            cases = list(same_cases(rates.matrices))
    for processes in counts[1:]:
        progress(f"{processes} processes with 1 thread each")
        results = crew.run(processes, setting_rates, cases, 1, tuple(cores), budget)
        matrices += _mean_matrices([result.matrices for result in results])
        operations += _mean_operations([result.operations for result in results])
    return ProcessorRates(matrices=matrices, operations=operations)


def setting_rates(
    member: Member, cases: Sequence[MatrixCase], threads: int, cores: Sequence[int], budget: Seconds
) -> ProcessorRates:
    """All rates of this process with `threads` threads, beside the other members of its group.

    Args:
        member: this process.
        cases: matrix products to time.
        threads: of this process.
        cores: the member of rank n stays on the n-th; none: it is not kept on a core.
        budget: for one timed piece of work (s).
    """
    retain_memory()
    timer = Timer(budget=budget, together=member.together)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    setting = {"device": CPU, "threads": threads, "processes": member.group}
    with pinned(cores[member.rank] if cores else None):
        most = LONGEST_IN_BUDGETS * budget if member.group == 1 else float("inf")
        matrices = matrix_rates(timer, iter(cases), most=most, **setting)
        overheads = overhead_rates(timer, **setting)
        operations = [
            *overheads,
            *operation_rates(timer, overhead=overheads[0].overhead, **setting),
            *layer_rates(timer, **setting),
            *optimizer_rates(timer, **setting),
            allocation_rate(timer, threads=threads, processes=member.group),
        ]
    return ProcessorRates(matrices=matrices, operations=operations)


def retain_memory() -> None:
    """Lets this process keep freed memory, so that operations are timed without touching fresh memory.

    What touching costs is a rate of its own (`allocation`). glibc only; elsewhere the allocator's habit is in the
    rates of large operations.
    """
    if sys.platform == "linux" and hasattr(mallopt := ctypes.CDLL(None), "mallopt"):
        for option in (_MALLOPT_TRIM_THRESHOLD, _MALLOPT_MMAP_THRESHOLD):
            mallopt.mallopt(option, GIB)


def _mean_matrices(results: Sequence[Sequence[MatrixRate]]) -> list[MatrixRate]:
    """Rows with the mean rate over the processes, which timed the same cases in the same order."""
    return [
        replace(rows[0], rate=fmean(row.rate for row in rows), exact=all(row.exact for row in rows))
        for rows in zip(*results, strict=True)
    ]


def _mean_operations(results: Sequence[Sequence[OperationRate]]) -> list[OperationRate]:
    """Rows with the mean bandwidth and overhead over the processes."""
    return [
        replace(rows[0], bandwidth=fmean(row.bandwidth for row in rows), overhead=fmean(row.overhead for row in rows))
        for rows in zip(*results, strict=True)
    ]
