"""Two runs side by side: what was measured, and what was decided differently."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from math import isfinite

from meshwright.plan import Pins, difference
from meshwright.report._outcome import format_error
from meshwright.report._provenance import settings
from meshwright.report._run_data import Run
from meshwright.units import format_bytes, format_seconds

NEVER_EQUAL = ("started", "command")


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One quantity or decision of two runs, as texts; `change` is the second over the first, in percent."""

    name: str
    first: str
    second: str
    change: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two runs compared.

    Args:
        headline: which one was faster, by how much.
        sentences: whether the losses agree, and memory.
        banner: which of them did not finish.
        measured: quantities of both.
        decided: decisions and settings that are not the same in both.
    """

    headline: str
    sentences: tuple[str, ...]
    banner: tuple[str, ...]
    measured: tuple[Difference, ...]
    decided: tuple[Difference, ...]


def labels(first: Run, second: Run) -> tuple[str, str]:
    """Names that tell the runs apart: the folders' own, with their parents where those are the same."""
    if first.name != second.name:
        return first.name, second.name
    return str(first.folder), str(second.folder)


def compare(first: Run, second: Run) -> Comparison:
    """What two runs have not in common."""
    names = labels(first, second)
    return Comparison(
        headline=_headline(first, second, names),
        sentences=tuple(_sentences(first, second)),
        banner=tuple(
            f"{name}: {run.measurement.status} after {run.measurement.steps} steps. {run.measurement.reason}".strip()
            for name, run in zip(names, (first, second), strict=True)
            if run.measurement.status != "finished"
        ),
        measured=tuple(_measured(first, second)),
        decided=tuple(_decided(first, second)),
    )


def _headline(first: Run, second: Run, names: tuple[str, str]) -> str:
    steps = first.measurement.step, second.measurement.step
    if min(steps) <= 0:
        idle = names[0] if steps[0] <= 0 else names[1]
        return f"{idle} has no step to compare"
    ratio = steps[0] / steps[1]
    times = format_seconds(steps[0]), format_seconds(steps[1])
    if abs(ratio - 1) < 0.02:
        return f"{names[0]} and {names[1]} are equally fast: {times[0]} and {times[1]} per step"
    if ratio > 1:
        return f"{names[1]} is {ratio:.2f} × as fast as {names[0]}: {times[1]} instead of {times[0]} per step"
    return f"{names[0]} is {1 / ratio:.2f} × as fast as {names[1]}: {times[0]} instead of {times[1]} per step"


def _sentences(first: Run, second: Run) -> Iterator[str]:
    left = {record.step: record.loss for record in first.records if isfinite(record.loss)}
    shared = [
        (record.step, abs(record.loss - left[record.step]))
        for record in second.records
        if record.step in left and isfinite(record.loss)
    ]
    if shared:
        step, distance = max(shared, key=lambda pair: pair[1])
        yield f"Over the {len(shared)} steps that both did, the losses are at most {distance:.2g} apart (step {step})."
    if first.plan is not None and second.plan is not None and first.plan.model != second.plan.model:
        yield f"They trained different models: {first.plan.model} and {second.plan.model}."


def _measured(first: Run, second: Run) -> Iterator[Difference]:
    rows: tuple[tuple[str, Callable[[Run], float], Callable[[float], str]], ...] = (
        ("step time", lambda run: run.measurement.step, format_seconds),
        ("samples per second", lambda run: run.samples_per_second, "{:,.4g}".format),
        ("peak memory", lambda run: run.measurement.memory, format_bytes),
        ("steps done", lambda run: run.measurement.steps, "{:.0f}".format),
        ("last loss", lambda run: run.records[-1].loss if run.records else 0.0, "{:.5g}".format),
        ("step time, predicted", lambda run: run.plan.prediction.time.step if run.plan else 0.0, format_seconds),
        ("peak memory, predicted", lambda run: run.plan.prediction.memory.peak if run.plan else 0, format_bytes),
    )
    for name, value, write in rows:
        pair = value(first), value(second)
        change = format_error(pair[1] / pair[0] - 1) if pair[0] and pair[1] else "–"
        texts = [write(one) if one else "–" for one in pair]
        yield Difference(name=name, first=texts[0], second=texts[1], change=change)


def _decided(first: Run, second: Run) -> Iterator[Difference]:
    """What the plans choose differently, then what was asked differently."""
    choices = {item.name for item in fields(Pins)}
    if first.plan is not None and second.plan is not None:
        for one in difference(first.plan, second.plan):
            if one.name in choices:
                yield Difference(name=one.name, first=one.first, second=one.second)
    asked = [{row.name: row.value for row in settings(run.settings)} for run in (first, second)]
    for name in dict.fromkeys((*asked[0], *asked[1])):
        pair = asked[0].get(name, "–"), asked[1].get(name, "–")
        if pair[0] != pair[1] and name.removeprefix("plan.") not in choices and name not in NEVER_EQUAL:
            yield Difference(name=name, first=pair[0], second=pair[1])
