"""The processor cores and threads of this worker."""

import os
import sys
from contextlib import suppress

from meshwright.cost import Worker

TASKS = "/proc/self/task"


def prepare(worker: Worker) -> None:
    """Sets what torch and its libraries read when they are loaded: call it before that.

    Args:
        worker: its part of the plan.
    """
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(worker.threads)
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    _show_device(worker.device)
    pin(worker)


def pin(worker: Worker) -> None:
    """Pins all threads of this process to the worker's cores; says so where they are not to be had."""
    if not worker.cores or not hasattr(os, "sched_setaffinity"):
        return
    free = os.sched_getaffinity(0)
    if not set(worker.cores) <= free:
        print(
            f"meshwright: worker {worker.rank} is planned on cores {list(worker.cores)}, of which this process may use "
            f"{sorted(free & set(worker.cores))}; it is not pinned",
            file=sys.stderr,
        )
        return
    for task in _tasks():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(task, worker.cores)


def free_cores() -> frozenset[int]:
    """Cores that this process may use; empty where the system does not say."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()


def release(cores: frozenset[int]) -> None:
    """Lets all threads of this process use these cores again."""
    for task in _tasks() if cores else ():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(task, cores)


def _show_device(device: str) -> None:
    """Leaves one GPU visible, so that a script that says `cuda` or `cuda:0` gets this worker's."""
    kind, _, number = device.partition(":")
    if kind != "cuda" or not number:
        return
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[int(number)] if int(number) < len(visible) else number


def _tasks() -> list[int]:
    try:
        return [int(name) for name in os.listdir(TASKS)]
    except OSError:
        return [0]
