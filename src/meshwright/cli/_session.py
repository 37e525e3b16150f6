"""What the verbs that run a script have in common: the hardware, the plan, and a record of both."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from meshwright.cli._settings import Settings
from meshwright.errors import UsageError
from meshwright.hardware import Cluster, here, identity, parse_cluster, read_cluster
from meshwright.launch import Origin, Progress, Value, check_devices, plan_script, spread_over
from meshwright.plan import Plan, explain, read_plan

ORIGINS: tuple[Origin, ...] = ("default", "measured", "file", "command line", "environment")


def find_cluster(settings: Settings, *, progress: Progress, num_hosts: int = 1) -> Cluster:
    """The hardware to plan for: a file's, or this machine's.

    Raises:
        UsageError: the file names no host.
    """
    if settings.cluster is not None:
        cluster = named_cluster(settings.cluster)
        if not cluster.hosts:
            raise UsageError(
                f"{settings.cluster} has no hosts",
                cause="a plan is made for the devices of hosts",
                command=f"meshwright hardware --save {settings.cluster}",
            )
    else:
        cluster = here(fresh=settings.fresh, progress=progress.status.say)
    return spread_over(cluster, num_hosts=num_hosts)


def named_cluster(text: str) -> Cluster:
    """The cluster in a file, or of a short form where there is no such file.

    One that was measured elsewhere loses its identity: nothing can be tried on it here.

    Raises:
        UsageError: neither.
    """
    path = Path(text)
    if not (path.is_file() or path.suffix == ".toml"):
        return parse_cluster(text)
    cluster = read_cluster(path)
    return cluster if cluster.identity == identity() else replace(cluster, identity="")


def beside(plan: Path) -> tuple[Path, Path]:
    """Where the graph and the cluster lie that a plan was made of: in its run's folder, or beside its file."""
    if plan.is_dir():
        return plan / "graph.json", plan / "cluster.toml"
    own = plan.with_suffix(".graph.json"), plan.with_suffix(".cluster.toml")
    in_folder = plan.parent / "graph.json", plan.parent / "cluster.toml"
    return in_folder if not own[0].is_file() and all(path.is_file() for path in in_folder) else own


def find_plan(
    script: Path,
    arguments: Sequence[str],
    *,
    settings: Settings,
    cluster: Cluster,
    folder: Path,
    progress: Progress,
    reference_steps: int = 0,
) -> Plan:
    """The plan to follow: a file's, or one made now.

    Raises:
        PlanError: the file's is for devices that are not there.
    """
    if settings.plan is None:
        return plan_script(
            script,
            arguments,
            goal=settings.goal,
            cluster=cluster,
            folder=folder,
            progress=progress.status.announce,
            limit=settings.planning_limit,
            reference_steps=reference_steps,
        )
    plan = read_plan(settings.plan)
    check_devices(plan, cluster)
    return plan


def recorded_values(settings: Settings, *, plan: Plan | None = None) -> Mapping[str, Value]:
    """Every setting, and every choice of the plan, with its origin."""
    values = dict(settings.values)
    if "MESHWRIGHT_CACHE" in os.environ:
        values["cache"] = Value(value=os.environ["MESHWRIGHT_CACHE"], origin="environment")
    if plan is None:
        return values
    decisions = {
        decision.name: Value(
            value=decision.value, origin="file" if settings.plan is not None else _origin(decision.origin)
        )
        for decision in explain(plan).decisions
    }
    return {**values, **{f"plan.{name}": value for name, value in decisions.items()}}


def scratch_folder() -> TemporaryDirectory[str]:
    """A folder for one command, gone when it ends."""
    return TemporaryDirectory(prefix="meshwright-")


def _origin(text: str) -> Origin:
    return next((origin for origin in ORIGINS if origin == text), "default")
