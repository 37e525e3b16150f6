"""What this host's processor does, for every number of threads and every number of processes beside each other."""

import ctypes
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import fmean
from time import perf_counter

import torch

from meshwright.hardware._device import MatrixRate, OperationRate
from meshwright.hardware.probe_images import image_rates
from meshwright.hardware.probe_layers import layer_rates
from meshwright.hardware.probe_matrices import MatrixCase, cases_of, matrix_rates, processor_cases
from meshwright.hardware.probe_operations import operation_rates
from meshwright.hardware.probe_timer import Timer
from meshwright.hardware.probe_training import allocation_rate, optimizer_rates, overhead_rates
from meshwright.hardware.probe_workers import Crew, Member, pinned
from meshwright.units import GIB, Seconds

FEW_CORES = 8
CPU = torch.device("cpu")
LONGEST: Seconds = 0.04  # a product that takes longer, in a data type that is slow here, is left out
PIECES = 112  # timed pieces of work in one setting
LONGEST_ROUND: Seconds = 10.0  # after a longer one there is no other: the whole probe takes 30 s
_MALLOPT_TRIM_THRESHOLD, _MALLOPT_MMAP_THRESHOLD = -1, -3

Statistic = Callable[[Sequence[float]], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessorRates:
    """What was timed."""

    matrices: tuple[MatrixRate, ...]
    operations: tuple[OperationRate, ...]


def thread_counts(cores: int) -> list[int]:
    """Powers of two up to the cores, and the cores: 6 → 1, 2, 4, 6; powers of four where there are more than 8."""
    step = 1 if cores <= FEW_CORES else 2
    powers = [2**exponent for exponent in range(0, cores.bit_length(), step) if 2**exponent < cores]
    return [*powers, cores]


def processor_rates(
    crew: Crew, *, cores: Sequence[int], time: Seconds, rounds: int, progress: Callable[[str], object]
) -> ProcessorRates:
    """Rates for one process with every number of threads, then for several processes of one thread each.

    Everything is timed in several rounds some seconds apart and the better one kept: a passing burst of other processes
    does not count, a lasting load does.

    Args:
        crew: processes to measure with; at least as many as cores.
        cores: their numbers.
        time: to spend on all timed pieces of work together, more or less (s).
        rounds: at most.
        progress: told what is being measured.
    """
    counts = thread_counts(len(cores))
    settings = [*((threads, 1) for threads in counts), *((1, processes) for processes in counts[1:])]
    cases = feasible_cases()
    budget = time / (PIECES * len(settings) * rounds)
    done: list[ProcessorRates] = []
    start = perf_counter()
    while len(done) < rounds and perf_counter() - start < LONGEST_ROUND:
        timed = []
        for threads, processes in settings:
            progress(f"round {len(done) + 1}: {_counted(processes, 'process')} with {_counted(threads, 'thread')}")
            pinned_to = tuple(cores) if processes > 1 else ()
            results = crew.run(processes, setting_rates, cases, threads, pinned_to, budget)
            timed.append(combined(results, rate=fmean, overhead=fmean))
        done.append(
            ProcessorRates(
                matrices=tuple(chain.from_iterable(rates.matrices for rates in timed)),
                operations=tuple(chain.from_iterable(rates.operations for rates in timed)),
            )
        )
    return combined(done, rate=max, overhead=min)


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
        operations = (
            *overhead_rates(timer, **setting),
            *operation_rates(timer, **setting),
            *layer_rates(timer, **setting),
            *image_rates(timer, **setting),
            *optimizer_rates(timer, **setting),
            allocation_rate(timer, threads=threads, processes=member.group),
        )
    return ProcessorRates(matrices=tuple(matrices), operations=operations)


def retain_memory() -> None:
    """Lets this process keep freed memory, so that operations are timed without touching fresh memory.

    What touching costs is a rate of its own (`allocation`). glibc only; elsewhere the allocator's habit is in the
    rates of large operations.
    """
    if sys.platform == "linux" and hasattr(mallopt := ctypes.CDLL(None), "mallopt"):
        for option in (_MALLOPT_TRIM_THRESHOLD, _MALLOPT_MMAP_THRESHOLD):
            mallopt.mallopt(option, GIB)


def combined(results: Sequence[ProcessorRates], *, rate: Statistic, overhead: Statistic) -> ProcessorRates:
    """One row for each thing timed, from several results that timed the same things in the same order.

    Args:
        results: of several processes or rounds.
        rate: makes one rate or bandwidth of theirs.
        overhead: makes one overhead of theirs.
    """
    matrices = (
        replace(rows[0], rate=rate([row.rate for row in rows]), exact=all(row.exact for row in rows))
        for rows in zip(*(result.matrices for result in results), strict=True)
    )
    operations = (
        replace(
            rows[0],
            bandwidth=rate([row.bandwidth for row in rows]),
            overhead=overhead([row.overhead for row in rows]),
        )
        for rows in zip(*(result.operations for result in results), strict=True)
    )
    return ProcessorRates(matrices=tuple(matrices), operations=tuple(operations))


def _counted(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
