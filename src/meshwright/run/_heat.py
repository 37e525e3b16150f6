"""A few timed steps of one strategy on a copy of the job; the process and the job are afterwards as before."""

import gc
import random
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from meshwright.cost import Strategy
from meshwright.run._engine import Engine
from meshwright.run._job import Job
from meshwright.run._memory import peak_memory
from meshwright.run._processor import free_cores, pin, release
from meshwright.run._race import Heat
from meshwright.units import Bytes, Seconds

_MOST_STEPS = 40
# Writing 5 sets a process's memory high-water mark to what it holds now (Linux, proc(5)).
_HIGH_WATER_MARK = "/proc/self/clear_refs"


def load_all() -> None:
    """Loads what the first heat would otherwise load in its own time; torch's optimizers load dynamo at their step."""
    import torch._dynamo  # noqa: F401

    from meshwright import numerics, parallel  # noqa: F401


@contextmanager
def old_objects_set_aside() -> Generator[None]:
    """A context in which collecting garbage looks at new objects only: at the many of torch it takes up to a second."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def run_heat(
    job: Job, batch: Any, strategy: Strategy, *, rank: int, group: dist.ProcessGroup | None, duration: Seconds
) -> Heat:
    """Runs the real step engine, this worker's part of it.

    Args:
        job: is copied.
        batch: a global batch.
        strategy: to be timed.
        rank: of this worker in the strategy.
        group: its workers; None for one.
        duration: about how long it may take, warming up included (s).

    Returns:
        The steps' times, or the error that the strategy ended in.
    """
    with _process_as_before():
        worker = strategy.workers[rank]
        torch.set_num_threads(worker.threads)
        pin(worker)
        try:
            return _timed(job.copy(), batch, strategy, rank=rank, group=group, duration=duration)
        except Exception as error:
            return Heat(failure=_first_line(error))


def together(own: Heat, group: dist.ProcessGroup | None) -> Heat:
    """A heat as all its workers saw it: the times of the first, the memory of the fullest, any failure."""
    if group is None:
        return own
    heats: list[Heat | None] = [None] * dist.get_world_size(group)
    dist.all_gather_object(heats, own, group=group)
    ran = [heat for heat in heats if heat is not None]
    failure = next((heat.failure for heat in ran if heat.failure), "")
    return replace(ran[0], memory=max(heat.memory for heat in ran), failure=failure)


def _timed(
    job: Job, batch: Any, strategy: Strategy, *, rank: int, group: dist.ProcessGroup | None, duration: Seconds
) -> Heat:
    begun = time.perf_counter()
    measured = _forget_peak()
    engine = Engine(job, strategy, group=group, rank=rank)
    try:
        # The first step makes the optimizer's state and fetches memory; it may also be all that there is time for. It
        # compiles, too, where that is asked for, which is a cost of the run and not of its steps.
        warm = _step(engine, batch)
        if strategy.kernels.compiled:
            begun = time.perf_counter()
        if _agreed(int(warm < duration / 4), group):
            warm = _step(engine, batch)
        left = duration - (time.perf_counter() - begun)
        count = _agreed(min(max(int(left / max(warm, 1e-6)), 2), _MOST_STEPS), group)
        durations = tuple(_step(engine, batch) for _ in range(count))
        memory = peak_memory() - _size(job) if measured else 0
    finally:
        engine.close()
    return Heat(durations=durations, memory=max(memory, 0))


def _step(engine: Engine, batch: Any) -> Seconds:
    begun = time.perf_counter()
    engine.step(batch)
    if engine.device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - begun


def _agreed(number: int, group: dist.ProcessGroup | None) -> int:
    """What the first worker says, so that all make the same steps."""
    if group is None:
        return number
    value = torch.tensor(number)
    dist.broadcast(value, src=0, group=group)
    return int(value)


def _forget_peak() -> bool:
    """Starts the measurement of peak memory anew; False where that cannot be done."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.reset_peak_memory_stats()
        return True
    try:
        with open(_HIGH_WATER_MARK, "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return False
    return True


def _size(job: Job) -> Bytes:
    """What the copy takes beside the original: a run has only one of them."""
    return sum(tensor.nbytes for tensor in (*job.model.parameters(), *job.model.buffers()))


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


@contextmanager
def _process_as_before() -> Generator[None]:
    """Puts threads, cores and every generator of random numbers back."""
    threads, cores = torch.get_num_threads(), free_cores()
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(device_type=_device_type()):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        release(cores)
        torch.set_num_threads(threads)


def _device_type() -> str:
    device = torch.accelerator.current_accelerator()
    return device.type if device is not None and torch.accelerator.is_available() else "cuda"
