"""Worker processes for the tests of everything that runs on more than one: started once per session, then reused.

    def total(start):                      # at the top of a test module: the workers import it by name
        value = torch.tensor(float(start + dist.get_rank()))
        dist.all_reduce(value)
        return value.item()

    def test_total(workers):
        assert workers(2).run(total, 1) == [3.0, 3.0]

Each pool is a gloo world of its own with one thread per process. torch is loaded once, in the server that the processes
are forked from, and what was loaded there is never looked through for garbage. A function that fails on a rank fails
the test with that rank's traceback; the pool is then started anew, because its ranks may stand at different
collectives.
"""

import atexit
import datetime
import gc
import os
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

COLLECTIVE_TIMEOUT = datetime.timedelta(seconds=60)
GRACE = 3.0
PRELOADED = [
    "torch._dynamo", "torch._export.non_strict_utils", "torch.distributed.fsdp", "torch.export",
    "meshwright.run._engine", "meshwright.run._verify", "meshwright.run.loop", "meshwright.parallel.program",
    "transformers.modeling_utils",
]  # fmt: skip


class WorkerFailedError(AssertionError):
    """A function failed in a worker; carries the tracebacks of the ranks that failed."""


class Pool:
    """A gloo world of `size` processes, started at its first use.

    Args:
        size: number of processes.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._processes: list[Any] = []
        self._connections: list[Connection] = []

    def run(self, function: Callable[..., Any], *args: Any, timeout: float = 60.0) -> list[Any]:
        """Calls `function(*args)` in every process.

        Args:
            function: defined at the top of an importable module.
            args: anything that can be pickled.
            timeout: how long all ranks together may take (s).

        Returns:
            What each rank returned, by rank.

        Raises:
            WorkerFailedError: a rank raised, died, or did not answer in time.
        """
        self._start()
        job = pickle.dumps((sys.path, pickle.dumps((function, args))))
        for connection in self._connections:
            connection.send_bytes(job)
        answers = self._collect(time.monotonic() + timeout)
        failures = [f"rank {rank}:\n{text}" for rank, (succeeded, text) in sorted(answers.items()) if not succeeded]
        silent = [str(rank) for rank in range(self.size) if rank not in answers]
        if failures or silent:
            self.stop()
            note = f"no answer from rank {', '.join(silent)}\n" if silent else ""
            raise WorkerFailedError(f"{function.__name__} failed on {self.size} workers\n{note}" + "\n".join(failures))
        return [answers[rank][1] for rank in range(self.size)]

    def stop(self) -> None:
        """Ends the processes; the next `run` starts new ones."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(0.2)
            if process.is_alive():
                process.kill()
            process.join()
        self._processes, self._connections = [], []

    def _start(self) -> None:
        if self._processes:
            return
        context = get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        store = Path(tempfile.mkdtemp(prefix="meshwright-test-")) / "store"
        for rank in range(self.size):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, rank, self.size, str(store)))
            process.start()
            there.close()
            self._processes.append(process)
            self._connections.append(here)

    def _collect(self, deadline: float) -> dict[int, tuple[bool, Any]]:
        answers: dict[int, tuple[bool, Any]] = {}
        while len(answers) < self.size:
            waiting = [connection for rank, connection in enumerate(self._connections) if rank not in answers]
            ready = wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                return answers
            for connection in ready:
                answer = _receive(connection)
                answers[self._connections.index(connection)] = answer
                if not answer[0]:
                    deadline = min(deadline, time.monotonic() + GRACE)
        return answers


class Pools:
    """The pools of a session, by size."""

    def __init__(self) -> None:
        self._pools: dict[int, Pool] = {}
        atexit.register(self.stop)

    def __call__(self, size: int) -> Pool:
        """The pool with `size` processes."""
        return self._pools.setdefault(size, Pool(size))

    def stop(self) -> None:
        """Ends every pool."""
        for pool in self._pools.values():
            pool.stop()


def _receive(connection: Any) -> tuple[bool, Any]:
    try:
        return pickle.loads(connection.recv_bytes())
    except (EOFError, ConnectionError):
        return False, "the process died"


def _serve(connection: Any, rank: int, size: int, store: str) -> None:
    import torch
    import torch.distributed as dist

    gc.freeze()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT
    )
    while True:
        try:
            path, job = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)
        sys.path[:] = path
        torch.manual_seed(0)
        connection.send_bytes(_answer(job))


def _answer(job: bytes) -> bytes:
    try:
        function, args = pickle.loads(job)
        return pickle.dumps((True, function(*args)))
    except BaseException:
        return pickle.dumps((False, traceback.format_exc()))
