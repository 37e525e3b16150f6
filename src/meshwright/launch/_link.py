"""The link between the hosts of a run, measured before it is planned."""

import os
import sys
from dataclasses import replace

from meshwright.documents import read_toml, write_toml
from meshwright.hardware import Cluster, Link
from meshwright.launch._agent_job import AgentJob, AgentTask
from meshwright.launch._failure import agent_failure
from meshwright.launch._hosts import Hosts
from meshwright.launch._interrupt import Interrupts
from meshwright.launch._processes import Processes
from meshwright.launch._progress import Progress
from meshwright.launch._run_folder import RunFolder
from meshwright.launch._watch import watch

_BETWEEN_HOSTS = ("network", "rack")


def with_link(cluster: Cluster, hosts: Hosts, *, folder: RunFolder, progress: Progress, planned: bool) -> Cluster:
    """The cluster with the link between its hosts, measured now where it names none; host 0 calls it.

    The other hosts answer with `answer_link` meanwhile, whether anything is measured or not.

    Args:
        cluster: to plan for.
        hosts: all, and this one's place.
        folder: the run's.
        progress: shows the state.
        planned: whether there is a plan already, so that nobody needs the link.

    Raises:
        MeshwrightError: the hosts cannot reach each other.
    """
    known = planned or any(link.tier in _BETWEEN_HOSTS for link in cluster.links)
    _meet(hosts, "skip" if known else "measure", folder=folder, progress=progress)
    if known:
        return cluster
    return replace(cluster, links=(*cluster.links, read_toml(Link, folder.link)))


def answer_link(hosts: Hosts, *, folder: RunFolder, progress: Progress) -> None:
    """Takes part in what host 0 measures, if anything; every other host calls it."""
    _meet(hosts, "measure", folder=folder, progress=progress)


def _meet(hosts: Hosts, task: AgentTask, *, folder: RunFolder, progress: Progress) -> None:
    job = AgentJob(script="", folder=folder.path.resolve(), hosts=hosts, task=task)
    write_toml(job, folder.agent_job)
    with Interrupts() as interrupts, Processes() as processes:
        processes.start(
            -1,
            [sys.executable, "-m", "meshwright.launch.agent", str(folder.agent_job)],
            environment=dict(os.environ),
            out=folder.agent_log("out"),
            err=folder.agent_log("err"),
        )
        watched = watch(processes, interrupts=interrupts, refresh=progress.refresh)
    if watched.ending == "interrupted":
        raise KeyboardInterrupt
    if watched.ending == "failed":
        raise agent_failure(watched.failures, folder=folder)
