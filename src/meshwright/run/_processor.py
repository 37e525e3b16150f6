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


def _tasks() -> list[int]:
    try:
        return [int(name) for name in os.listdir(TASKS)]
    except OSError:
        return [0]
