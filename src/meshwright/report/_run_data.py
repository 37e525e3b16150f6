"""What a run left behind in its folder, as far as it got."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from meshwright.cost import Measurement, StepRecord, StepTrace, TimeBreakdown, Verification, read_trace
from meshwright.documents import read_toml
from meshwright.errors import DocumentError, UsageError
from meshwright.hardware import Cluster
from meshwright.plan import Plan
from meshwright.units import Seconds

T = TypeVar("T")

MARKS = ("plan.toml", "metrics.jsonl", "measurement.toml", "run.toml")
WARM_UP_STEPS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run folder in memory; what the run did not get to is empty.

    Args:
        folder: where it lies.
        plan: the plan it ran under; None where planning did not end.
        records: a line of `metrics.jsonl` per step, in order.
        measurement: the run in sum; worked out from the records where the run was cut off before it wrote one.
        reference: loss of the one-device program by step; empty where none was run.
        verification: what `meshwright verify` found; None where it was not run.
        traces: of one step, of every worker that wrote it.
        settings: `run.toml`.
        cluster: the machine; None where the folder does not keep it.
        missing: what is not there, each in a sentence.
    """

    folder: Path
    plan: Plan | None = None
    records: tuple[StepRecord, ...] = ()
    measurement: Measurement
    reference: tuple[tuple[int, float], ...] = ()
    verification: Verification | None = None
    traces: tuple[StepTrace, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    cluster: Cluster | None = None
    missing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name

    @property
    def steady(self) -> tuple[StepRecord, ...]:
        """The records without the first steps, in which memory is first touched and kernels are chosen."""
        return self.records[WARM_UP_STEPS:] if len(self.records) > 2 * WARM_UP_STEPS else self.records

    @property
    def samples_per_second(self) -> float:
        """Median throughput, data loading included; 0 where no step was done."""
        rates = [record.samples_per_second for record in self.steady if record.samples_per_second > 0]
        return median(rates) if rates else 0.0


def read_run(folder: Path) -> Run:
    """Everything a run folder holds; whatever is missing is named in `missing`.

    Raises:
        UsageError: the folder holds no run; lists the runs near by.
        DocumentError: a file in it does not say what it should.
    """
    if not any((folder / mark).is_file() for mark in MARKS):
        raise _no_run(folder)
    missing = []
    plan = _read(Plan, folder / "plan.toml")
    if plan is None:
        missing.append("There is no plan.toml: the run ended before a plan was chosen.")
    records = _read_records(folder / "metrics.jsonl")
    if not records:
        missing.append("There is no step in metrics.jsonl: the run ended before its first step was done.")
    measurement = _read(Measurement, folder / "measurement.toml")
    if measurement is None:
        if records:
            missing.append("There is no measurement.toml: the sums below are worked out from the recorded steps.")
        measurement = summarise(records)
    return Run(
        folder=folder,
        plan=plan,
        records=records,
        measurement=measurement,
        reference=tuple((record.step, record.loss) for record in _read_records(folder / "reference.jsonl")),
        verification=_read(Verification, folder / "verification.toml"),
        traces=_read_traces(folder / "trace"),
        settings=_read_mapping(folder / "run.toml"),
        cluster=_read(Cluster, folder / "cluster.toml"),
        missing=tuple(missing),
    )


def summarise(records: Sequence[StepRecord]) -> Measurement:
    """The sums that a run would have written, from the steps it recorded before it was cut off."""
    steady = records[WARM_UP_STEPS:] if len(records) > 2 * WARM_UP_STEPS else records
    durations = sorted(record.duration for record in steady)
    items = {
        name: median([getattr(record.time, name) for record in steady]) if steady else 0.0
        for name in TimeBreakdown.__dataclass_fields__
    }
    return Measurement(
        status="unfinished",
        steps=records[-1].step if records else 0,
        step=median(durations) if durations else 0.0,
        low=_quantile(durations, 0.05),
        high=_quantile(durations, 0.95),
        time=TimeBreakdown(**items),
        memory=max((record.memory for record in records), default=0),
        reason="it was killed, or it is still going on",
    )


def runs_near(folder: Path) -> list[Path]:
    """Run folders inside, beside and in `outputs/` next to a folder; newest first."""
    places = (folder, folder / "outputs", folder.parent, folder.parent / "outputs", Path("outputs"))
    found = {
        child.resolve(): child
        for place in places
        if place.is_dir()
        for child in place.iterdir()
        if child.is_dir() and any((child / mark).is_file() for mark in MARKS)
    }
    return sorted(found.values(), key=lambda path: path.stat().st_mtime, reverse=True)


def _no_run(folder: Path) -> UsageError:
    near = runs_near(folder)
    what = "holds no run" if folder.is_dir() else "is a file, not a folder" if folder.exists() else "does not exist"
    return UsageError(
        f"{folder} {what}",
        cause=f"a run folder holds at least one of {', '.join(MARKS)}",
        alternatives=[str(path) for path in near[:5]] or ["no run is near by; make one with `meshwright run SCRIPT`"],
        command=f"meshwright report {near[0]}" if near else "meshwright run SCRIPT",
    )


def _read(kind: type[T], path: Path) -> T | None:
    return read_toml(kind, path) if path.is_file() else None


def _read_mapping(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise DocumentError(f"{path} is not TOML: {error}") from None


def _read_traces(folder: Path) -> tuple[StepTrace, ...]:
    """The traces of the latest step that worker 0 wrote; a worker that was cut off before it is left out."""
    found = [read_trace(path) for path in sorted(folder.glob("rank-*.json"))]
    step = next((trace.step for trace in found if trace.rank == 0), 0)
    return tuple(sorted((trace for trace in found if trace.step == step), key=lambda trace: trace.rank))


def _read_records(path: Path) -> tuple[StepRecord, ...]:
    """The steps in a file of JSON Lines; a last line that was cut off in the middle of writing is left out."""
    if not path.is_file():
        return ()
    adapter = TypeAdapter(StepRecord)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            fields = json.loads(line)
            if fields.get("loss", 0.0) is None:
                fields["loss"] = nan
            records.append(adapter.validate_python({"duration": 0.0, "samples_per_second": 0.0, **fields}))
        except (ValueError, ValidationError, AttributeError, TypeError) as error:
            if number == len(lines):
                break
            raise DocumentError(f"{path}: line {number} is no step: {str(error).splitlines()[0]}") from None
    return tuple(records)


def _quantile(ordered: Sequence[Seconds], share: float) -> Seconds:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
