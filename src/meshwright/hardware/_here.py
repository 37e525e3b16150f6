"""This machine as a cluster: from the cache where it has been measured, else measured now in a process of its own."""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from meshwright.documents import from_mapping, read_mapping, write_toml
from meshwright.errors import DocumentError, HardwareError
from meshwright.hardware._cache import calibration_path
from meshwright.hardware._cluster import Cluster
from meshwright.hardware._figures import EXAMPLE, check_figures
from meshwright.hardware._identity import identity, load_now, memory_available
from meshwright.hardware._named_devices import with_named_devices
from meshwright.hardware._written_units import with_plain_figures

# Loads differ by some percent from second to second; a fifth of the processor is more than that, and is felt.
NOTABLE_LOAD_CHANGE = 0.2


def here(*, fresh: bool = False, progress: Callable[[str], object] | None = None) -> Cluster:
    """This machine, measured; its devices' memory is what is available now.

    Args:
        fresh: measure even where there is a measurement of a machine like this.
        progress: told in lines what is being measured, and where the load is no longer what it was.

    Raises:
        HardwareError: the measurement failed; says how.
    """
    tell = progress or _say_nothing
    known = identity()
    path = calibration_path(known)
    cluster = None if fresh else _cached(path, known)
    if cluster is None:
        cluster = _measure(path, tell)
    elif warning := load_warning(cluster, load_now()):
        tell(warning)
    return with_memory_available(cluster)


def load_warning(cluster: Cluster, load: float) -> str:
    """What to tell the user when the machine is busier or idler than when it was measured; empty where it is not.

    Args:
        cluster: a measured one.
        load: share of the processor's time that other processes use now (0 to 1).
    """
    if abs(load - cluster.load) < NOTABLE_LOAD_CHANGE:
        return ""
    return (
        f"other processes use {load:.0%} of the processor now, {cluster.load:.0%} when this machine was measured "
        f"({_age(cluster.measured_at)}); predictions may be off: meshwright hardware --fresh"
    )


def with_memory_available(cluster: Cluster) -> Cluster:
    """The cluster with its processors' memory limited to what is available now on this machine (B)."""
    available = memory_available()
    hosts = tuple(
        replace(host, device=replace(host.device, memory=min(host.device.memory, available)))
        if host.device.kind == "cpu"
        else host
        for host in cluster.hosts
    )
    return replace(cluster, hosts=hosts)


def read_cluster(path: Path) -> Cluster:
    """The cluster stored in a TOML file, in which devices may be named as the catalogue does, and figures have units.

    Raises:
        DocumentError: no such file, or not a cluster, or one with figures that cannot be.
        UsageError: the catalogue has no such device.
    """
    try:
        cluster = from_mapping(
            Cluster, with_named_devices(with_plain_figures(read_mapping(path), path)), where=str(path)
        )
    except DocumentError as error:
        raise DocumentError(error.fact, cause=error.cause, alternatives=error.alternatives, command=EXAMPLE) from None
    check_figures(cluster, path)
    return cluster


def write_cluster(cluster: Cluster, path: Path, *, heading: str = "") -> None:
    """Stores a cluster as TOML, whole or not at all; with a heading for whoever edits it, if there is one."""
    write_toml(cluster, path, heading=heading)


def _cached(path: Path, known: str) -> Cluster | None:
    """The measurement of this machine, or None where there is none that can be read."""
    try:
        cluster = read_cluster(path)
    except DocumentError:
        return None
    return cluster if cluster.identity == known else None


def _measure(path: Path, tell: Callable[[str], object]) -> Cluster:
    """Runs the probe in a process of its own, so that torch is never loaded here, and passes its lines on."""
    with tempfile.TemporaryDirectory(prefix="meshwright-") as folder:
        result = Path(folder) / "cluster.toml"
        _run_probe(result, tell)
        cluster = read_cluster(result)
    try:
        write_cluster(cluster, path)
    except DocumentError as error:
        tell(f"measured, but not kept for the next time: {error.fact}; name another folder: MESHWRIGHT_CACHE=FOLDER")
    return cluster


def _run_probe(result: Path, tell: Callable[[str], object]) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "meshwright.hardware.probe", str(result)]
    complaints = result.with_suffix(".log")
    with (
        complaints.open("w", encoding="utf-8") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            tell(line.rstrip())
    complaint = complaints.read_text(encoding="utf-8").strip()
    if process.returncode != 0:
        raise HardwareError(
            f"measuring this machine failed with exit code {process.returncode}",
            cause=complaint.splitlines()[-1] if complaint else "the probe said nothing",
            command="python -m meshwright.hardware.probe cluster.toml",
        )


def _say_nothing(_line: str) -> None:
    pass


def _age(measured_at: str) -> str:
    """How long ago, in words."""
    if not measured_at:
        return "at an unknown time"
    elapsed = datetime.now(UTC) - datetime.fromisoformat(measured_at)
    hours = elapsed.total_seconds() / 3600
    return (
        f"{hours * 60:.0f} min ago"
        if hours < 2
        else f"{hours:.0f} h ago"
        if hours < 48
        else f"{hours / 24:.0f} days ago"
    )
