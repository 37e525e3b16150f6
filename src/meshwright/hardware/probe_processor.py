"""What this host's processor does, for every number of threads and every number of processes beside each other."""

import ctypes
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch

from meshwright.hardware._device import MatrixRate, OperationRate
from meshwright.hardware.probe_layers import layer_rates
from meshwright.hardware.probe_matrices import MatrixCase, cases_of, matrix_rates, processor_cases
from meshwright.hardware.probe_operations import operation_rates
from meshwright.hardware.probe_timer import Timer
from meshwright.hardware.probe_training import allocation_rate, optimizer_rates, overhead_rates
from meshwright.hardware.probe_workers import Crew, Member, pinned
from meshwright.units import GIB, Seconds

CPU = torch.device("cpu")
LONGEST: Seconds = 0.06  # a product that takes longer, in a data type that is slow here, is left out
ROUNDS = 2
_MALLOPT_TRIM_THRESHOLD, _MALLOPT_MMAP_THRESHOLD = -1, -3

Statistic = Callable[[Sequence[float]], float]


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

    Everything is timed in two rounds some seconds apart and the better one kept: a passing burst of other processes
    does not count, a lasting load does.

    Args:
        crew: processes to measure with; at least as many as cores.
        cores: their numbers.
        budget: for one timed piece of work in all rounds (s).
        progress: told what is being measured.
    """
    settings = [(threads, 1) for threads in thread_counts(len(cores))]
    settings += [(1, processes) for processes in thread_counts(len(cores))[1:]]
    cases = feasible_cases()
    rounds = []
    for number in range(1, ROUNDS + 1):
        rounds.append(ProcessorRates(matrices=[], operations=[]))
        for threads, processes in settings:
            progress(f"round {number} of {ROUNDS}: {_counted(processes, 'process')} with {_counted(threads, 'thread')}")
            pinned_to = tuple(cores) if processes > 1 else ()
            results = crew.run(processes, setting_rates, cases, threads, pinned_to, budget / ROUNDS)
            rounds[-1].matrices.extend(_combined_matrices([result.matrices for result in results], fmean))
            rounds[-1].operations.extend(_combined_operations([result.operations for result in results], fmean, fmean))
    return ProcessorRates(
        matrices=_combined_matrices([rates.matrices for rates in rounds], max),
        operations=_combined_operations([rates.operations for rates in rounds], max, min),
    )


def feasible_cases() -> list[MatrixCase]:
    """The matrix products that this processor has a kernel for and does in a reasonable time."""
    timer = Timer(budget=0.0)
    rates = matrix_rates(timer, processor_cases(), device=CPU, threads=1, processes=1, most=LONGEST)
    return cases_of(rates)


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
        matrices = matrix_rates(timer, cases, most=float("inf"), **setting)
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


def _combined_matrices(results: Sequence[Sequence[MatrixRate]], rate: Statistic) -> list[MatrixRate]:
    """One row for each case from several of the same cases in the same order."""
    return [
        replace(rows[0], rate=rate([row.rate for row in rows]), exact=all(row.exact for row in rows))
        for rows in zip(*results, strict=True)
    ]


def _combined_operations(
    results: Sequence[Sequence[OperationRate]], bandwidth: Statistic, overhead: Statistic
) -> list[OperationRate]:
    """One row for each case from several of the same cases in the same order."""
    return [
        replace(
            rows[0],
            bandwidth=bandwidth([row.bandwidth for row in rows]),
            overhead=overhead([row.overhead for row in rows]),
        )
        for rows in zip(*results, strict=True)
    ]


def _counted(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
