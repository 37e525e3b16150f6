"""A run's folder: where everything a run writes lies, and nothing else."""

import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from meshwright.documents import write_toml
from meshwright.errors import UsageError

Origin = Literal["default", "measured", "file", "command line", "environment"]
Stream = Literal["out", "err"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """A resolved setting and where it came from."""

    value: bool | int | float | str | tuple[str, ...]
    origin: Origin


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """What `run.toml` says: what was run, with what, and the origin of every value.

    Args:
        script: the user's script.
        arguments: its own arguments.
        command: the whole command line.
        started: ISO 8601 date and time.
        host: the machine's name in the network.
        versions: of Python and the packages that compute.
        values: every setting and every choice of the plan, by the name it is set by.
    """

    script: str
    arguments: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    started: str
    host: str
    versions: dict[str, str] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFolder:
    """`outputs/<script>-<date-time>/`, and the names of what lies in it."""

    path: Path

    @property
    def record(self) -> Path:
        """What was run, and the origin of every value."""
        return self.path / "run.toml"

    @property
    def plan(self) -> Path:
        """The plan that the workers follow."""
        return self.path / "plan.toml"

    @property
    def planning(self) -> "RunFolder":
        """Where the planning processes write: the same names again, one level down."""
        return RunFolder(path=self.path / "planning")

    @property
    def graph(self) -> Path:
        """What one step of the model does."""
        return self.path / "graph.json"

    @property
    def cluster(self) -> Path:
        """The machine as it was measured."""
        return self.path / "cluster.toml"

    @property
    def link(self) -> Path:
        """The link between the hosts, as it was measured for this run."""
        return self.path / "link.toml"

    @property
    def goal(self) -> Path:
        """What was asked of the plan."""
        return self.path / "goal.toml"

    @property
    def metrics(self) -> Path:
        """A line per step."""
        return self.path / "metrics.jsonl"

    @property
    def reference(self) -> Path:
        """The one-device program's first losses, a line per step."""
        return self.path / "reference.jsonl"

    @property
    def measurement(self) -> Path:
        """The run in sum."""
        return self.path / "measurement.toml"

    @property
    def verification(self) -> Path:
        """What the proof found."""
        return self.path / "verification.toml"

    @property
    def progress(self) -> Path:
        """What the planning process says it is doing, a line per stage."""
        return self.path / "progress.txt"

    def log(self, rank: int, stream: Stream) -> Path:
        """Where a worker's output or its errors go."""
        return self.path / "logs" / f"rank-{rank}.{stream}"

    def error(self, rank: int) -> Path:
        """Where a worker leaves the error that ended it."""
        return self.path / "workers" / f"rank-{rank}.error.json"

    @property
    def start(self) -> Path:
        """What task 0 of a Slurm step tells the others."""
        return self.path / "workers" / "start.json"

    @property
    def agent_job(self) -> Path:
        """What torch's agent was asked to start."""
        return self.path / "workers" / "agent.toml"

    def agent_log(self, stream: Stream) -> Path:
        """What torch's agent had to say."""
        return self.path / "logs" / f"agent.{stream}"

    @property
    def agent_error(self) -> Path:
        """The error that ended torch's agent."""
        return self.path / "workers" / "agent.error.json"

    def prepare(self) -> None:
        """Makes the folder and those in it; files of an earlier use stay."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.log(0, "out").parent.mkdir(exist_ok=True)
        self.error(0).parent.mkdir(exist_ok=True)

    @property
    def failures(self) -> Path:
        """Which workers died, as torch's agent saw it."""
        return self.path / "workers" / "failures.json"


def create_run_folder(script: Path, *, output: Path, name: str = "") -> RunFolder:
    """Makes the folder of a new run, before anything is started.

    Args:
        script: the user's script; the folder is named after it.
        output: the folder in which runs lie.
        name: name of the run's folder; made from script, date and time where empty.

    Raises:
        UsageError: the folder cannot be written.
    """
    stem = f"{script.stem}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    names = [name] if name else [stem, *(f"{stem}-{number}" for number in range(2, 100))]
    for candidate in names:
        folder = RunFolder(path=output / candidate)
        try:
            folder.path.mkdir(parents=True)
            folder.prepare()
        except FileExistsError:
            continue
        except OSError as error:
            raise _unwritable(output, error.strerror or str(error)) from None
        return folder
    raise _unwritable(output, f"{names[0]} is there already")


def latest_run(output: Path) -> RunFolder:
    """The newest run in a folder of runs.

    Raises:
        UsageError: there is none.
    """
    runs = [path.parent for path in output.glob("*/run.toml")] if output.is_dir() else []
    if not runs:
        raise UsageError(
            f"there is no run in {output}",
            cause="no folder in it has a run.toml",
            alternatives=["name the run's folder: meshwright report PATH"],
            command="meshwright run SCRIPT",
        )
    return RunFolder(path=max(runs, key=lambda path: (path / "run.toml").stat().st_mtime_ns))


def write_record(
    folder: RunFolder, *, script: Path, arguments: Sequence[str], values: Mapping[str, Value], command: Sequence[str]
) -> None:
    """Writes `run.toml`."""
    record = RunRecord(
        script=str(script),
        arguments=tuple(arguments),
        command=tuple(command),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        host=platform.node(),
        versions={"python": platform.python_version(), "platform": sys.platform}
        | {name: _version(name) for name in ("meshwright", "torch", "numpy")},
        values=dict(values),
    )
    write_toml(record, folder.record)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed as a package"


def _unwritable(output: Path, reason: str) -> UsageError:
    return UsageError(
        f"cannot make a run's folder in {output}: {reason}",
        cause="every run writes its plan, metrics, logs and report there, so nothing was started",
        alternatives=["give a folder that can be written: --output FOLDER"],
        command="meshwright run --output /tmp/outputs SCRIPT",
    )
