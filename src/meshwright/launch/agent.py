"""Torch's agent of one host: starts its workers, ends them all when one dies or when the parent is gone.

    python -m meshwright.launch.agent JOB.toml

A process of its own, because `torch.distributed.run` loads torch. Workers are never restarted: a run that lost
one ends. With several hosts the first one's plan travels to the others through the store in which the agents meet.
"""

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

# Agents of torch 2.13 hand their own store to the workers, whose stale addresses make a second start hang.
os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"

from torch.distributed import DistNetworkError, PrefixStore, TCPStore
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, LogsDest, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import LaunchConfig, elastic_launch

from meshwright.documents import read_toml, write_text, write_toml
from meshwright.errors import MeshwrightError, WorkerError, to_json
from meshwright.hardware.probe_link import link_between
from meshwright.launch._agent_job import AgentJob
from meshwright.launch._hosts import Hosts, workers_per_host
from meshwright.launch._interrupt import INTERRUPTED_EXIT_CODE
from meshwright.launch._run_folder import RunFolder
from meshwright.plan import read_plan

ENDED_BY_REQUEST = (-signal.SIGTERM, INTERRUPTED_EXIT_CODE)
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
WORKERS_GRACE = 5  # s; longer than a worker needs for its last words, shorter than the launcher's patience


class RankLogs(DefaultLogsSpecs):
    """Every worker's output in the run's folder, in files named by its rank."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(log_dir=str(folder.path / "logs"))
        self._folder = folder

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Where each local rank's output goes."""
        ranks = {local_rank: int(environment["RANK"]) for local_rank, environment in envs.items()}
        return LogsDest(
            stdouts={local: str(self._folder.log(rank, "out")) for local, rank in ranks.items()},
            stderrs={local: str(self._folder.log(rank, "err")) for local, rank in ranks.items()},
            error_files={local: str(self._folder.error(rank).with_suffix(".torch")) for local, rank in ranks.items()},
        )


def main() -> int:
    """Runs the job that the argument names; returns the exit code."""
    signal_on_parents_death()
    job = read_toml(AgentJob, Path(sys.argv[1]))
    folder = RunFolder(path=job.folder)
    try:
        start(job, folder=folder) if job.task == "run" else meet_and_measure(job, folder=folder)
    except ChildFailedError as error:
        write_text(folder.failures, json.dumps(own_failures(error.failures)))
        return WorkerError.exit_code
    except SignalException as error:
        return 128 + error.sigval
    except MeshwrightError as error:
        write_text(folder.agent_error, to_json(error))
        return error.exit_code
    return 0


def start(job: AgentJob, *, folder: RunFolder) -> dict[int, Any]:
    """Meets the other hosts' agents, agrees on the plan, starts this host's workers and waits for them."""
    store = meet(job.hosts, patience=job.patience)
    share_plan(store, job.hosts, path=folder.plan)
    counts = workers_per_host(read_plan(folder.plan), num_hosts=job.hosts.count)
    if counts[job.hosts.rank] == 0:
        return {}
    num_hosts = sum(count > 0 for count in counts)
    config = LaunchConfig(
        min_nodes=num_hosts,
        max_nodes=num_hosts,
        nproc_per_node=counts[job.hosts.rank],
        run_id="meshwright",
        rdzv_backend="static",
        rdzv_endpoint=f"{job.hosts.address}:{store.port}",
        rdzv_configs={"rank": job.hosts.rank, "timeout": job.patience},
        max_restarts=0,
        local_addr=job.hosts.address if job.hosts.count == 1 else None,
        logs_specs=RankLogs(folder),
        shutdown_timeout=WORKERS_GRACE,
    )
    return elastic_launch(config, sys.executable)("-m", "meshwright.run.worker", job.script, *job.arguments)


def meet_and_measure(job: AgentJob, *, folder: RunFolder) -> None:
    """Measures the link between the hosts where host 0 wants it; the store is gone when the others return.

    They will meet again at the same port: an agent that found this store still there would lose it.
    """
    hosts = job.hosts
    store = meet(hosts, patience=job.patience)
    if hosts.rank == 0:
        store.set("task", job.task)
    if store.get("task") == b"measure":
        # one host has no use for it
        from meshwright.exchange import DirectTransport

        link = link_between(
            PrefixStore("link", store), rank=hosts.rank, num_hosts=hosts.count, transports={"direct": DirectTransport}
        )
        if hosts.rank == 0:
            write_toml(link, folder.link)
    if hosts.rank > 0:
        store.add("left", 1)
        _await_end(store)
        return
    while store.add("left", 0) < hosts.count - 1:
        time.sleep(0.01)


def _await_end(store: TCPStore) -> None:
    with suppress(RuntimeError):
        while store.check(["task"]):
            time.sleep(0.02)


def own_failures(failures: Mapping[int, ProcessFailure]) -> dict[int, int]:
    """Exit codes by rank of the workers that failed by themselves, without those that the agent ended because of them.

    The agent asks with SIGTERM at once and kills when the grace is over; its list has both kinds.
    """
    first = min(failed.timestamp for failed in failures.values())
    own = {
        rank: failed.exitcode
        for rank, failed in failures.items()
        if failed.exitcode not in ENDED_BY_REQUEST and failed.timestamp < first + WORKERS_GRACE
    }
    return own or {rank: failed.exitcode for rank, failed in failures.items()}


def meet(hosts: Hosts, *, patience: int) -> TCPStore:
    """The store in which the agents meet; host 0 keeps it.

    Raises:
        WorkerError: the port is taken, or host 0 does not answer.
    """
    try:
        return TCPStore(
            hosts.address,
            hosts.port,
            is_master=hosts.rank == 0,
            timeout=timedelta(seconds=patience),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except DistNetworkError as error:
        where = f"{hosts.address}:{hosts.port}"
        raise WorkerError(
            f"cannot listen at {where}" if hosts.rank == 0 else f"host 0 does not answer at {where}",
            cause=str(error).splitlines()[0],
            alternatives=["give another port, the same on every host: --rendezvous HOST:PORT"],
        ) from None


def share_plan(store: TCPStore, hosts: Hosts, *, path: Path) -> None:
    """Gives host 0's plan to every other host."""
    if hosts.count == 1:
        return
    if hosts.rank == 0:
        store.set("plan", path.read_text(encoding="utf-8"))
    else:
        write_text(path, store.get("plan").decode())


def signal_on_parents_death() -> None:
    """Has the system send SIGTERM here when the launcher dies, however it dies (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
