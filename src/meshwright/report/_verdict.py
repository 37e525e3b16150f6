"""The run in a few sentences with numbers, and as a row of tiles."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from meshwright.plan import Candidate, Plan
from meshwright.report._exchange_checks import checks_sentence
from meshwright.report._explanation_view import RATES
from meshwright.report._outcome import Outcome, describe_error
from meshwright.report._run_data import Run

Tone = Literal["good", "warn", "bad", "plain"]

STEP_TARGET = 0.10
_AS_WRITTEN = re.compile(r"1 worker × \d+ threads?|1 × \w+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One number of the verdict: its label, the number, what it is compared with, and whether that is good."""

    label: str
    value: str
    note: str = ""
    tone: Tone = "plain"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A run judged.

    Args:
        status: `finished`, `interrupted`, `failed`, or `unfinished` where the folder does not say how it ended.
        banner: what ended it early and what is missing; empty for a whole run.
        headline: plan and speed.
        sentences: accuracy of the prediction, memory, and whether the run is proved equal to one device.
        tiles: the same numbers at a glance.
    """

    status: str
    banner: tuple[str, ...] = ()
    headline: str
    sentences: tuple[str, ...]
    tiles: tuple[Tile, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gain:
    """How many times faster the chosen plan is (`ratio`) than another: what that is, and its choices in a line."""

    ratio: float
    over: str
    summary: str


def judge(run: Run) -> Verdict:
    """The verdict on a run."""
    return Verdict(
        status=run.measurement.status,
        banner=tuple(_banner(run)),
        headline=_headline(run),
        sentences=tuple(_sentences(run)),
        tiles=tuple(_tiles(run)),
    )


def as_written(plan: Plan) -> Candidate | None:
    """The tried candidate that is the user's script by itself: one worker, nothing chosen; the fastest of them."""
    plain = [one for one in plan.candidates[1:] if one.trial > 0 and _AS_WRITTEN.fullmatch(one.summary)]
    return min(plain, key=lambda one: one.trial) if plain else None


def gain(plan: Plan) -> Gain | None:
    """How many times faster the chosen plan was than another, both in the trial; None where they were not tried."""
    chosen, *others = plan.candidates or (None,)
    tried = [one for one in others if one.trial > 0]
    if chosen is None or chosen.trial <= 0 or not tried:
        return None
    plain = as_written(plan)
    if plain is not None:
        return Gain(ratio=plain.trial / chosen.trial, over="the script as written", summary=plain.summary)
    best = min(tried, key=lambda one: one.trial)
    return Gain(ratio=best.trial / chosen.trial, over="the next best plan", summary=best.summary)


def verify_command(run: Run) -> str:
    """The command that compares the run's plan with one device, and keeps what it finds in the run's folder."""
    script = str(run.settings.get("script", "SCRIPT"))
    arguments = (str(argument) for argument in run.settings.get("arguments", []))
    return shlex.join(["meshwright", "verify", "--plan", str(run.folder / "plan.toml"), script, *arguments])


def equality(run: Run) -> tuple[str, Tone, str]:
    """Whether the run is proved equal to one device: in a word, its tone, and in a sentence."""
    found = run.verification
    if found is None:
        return "not verified", "warn", f"Not yet compared with one device: {verify_command(run)}"
    distances = (
        f"loss {found.loss:.1e}, gradients {found.gradient:.1e}, parameters {found.parameters:.1e} "
        f"apart after {found.steps} steps in {found.dtype}"
    )
    if found.equal:
        return "equal", "good", f"Proved equal to one device: {distances}."
    return "differs", "bad", f"Differs from the one-device program: {distances}."


def _banner(run: Run) -> Iterator[str]:
    measurement = run.measurement
    if measurement.status != "finished":
        reason = f": {measurement.reason.rstrip('.')}" if measurement.reason else ""
        steps = f"{measurement.steps} step{'' if measurement.steps == 1 else 's'}"
        yield f"This run {_ended(measurement.status)} after {steps}{reason}."
    yield from run.missing


def _ended(status: str) -> str:
    known = {"interrupted": "was interrupted", "failed": "failed", "unfinished": "has no end on record"}
    return known.get(status, f"ended as {status!r}")


def _headline(run: Run) -> str:
    if run.plan is None:
        return "No plan was chosen"
    strategy = run.plan.strategy
    who = strategy.summary.split(",")[0]
    if not run.records:
        return f"{who} were to train {run.plan.model}; no step was done"
    text = f"{who} trained {run.plan.model}"
    if run.samples_per_second:
        text += f" at {_count(run.samples_per_second)} samples/s"
    found = gain(run.plan)
    return f"{text}, {found.ratio:.2f} × {found.over}" if found and as_written(run.plan) else text


def _sentences(run: Run) -> Iterator[str]:
    if run.plan is not None and run.measurement.step > 0:
        prediction = run.plan.prediction
        step = Outcome(name="step", predicted=prediction.time.step, measured=run.measurement.step)
        yield (
            f"A step took {step.texts[1]} where {step.texts[0]} was predicted ({describe_error(step.error)}, "
            f"from {'a trial' if prediction.basis == 'trial' else RATES[prediction.rates]})."
        )
    found = gain(run.plan) if run.plan is not None else None
    if found is not None:
        yield f"In the trial it was {found.ratio:.2f} × as fast as {found.over}: {found.summary}."
    if run.plan is not None and run.measurement.memory > 0:
        memory = Outcome(
            name="memory", predicted=run.plan.prediction.memory.peak, measured=run.measurement.memory, unit="B"
        )
        yield (
            f"The fullest worker held {memory.texts[1]} where {memory.texts[0]} was predicted "
            f"({describe_error(memory.error)})."
        )
    if run.records:
        yield equality(run)[2]
    checks = checks_sentence(run.folder)
    if checks:
        yield checks


def _tiles(run: Run) -> Iterator[Tile]:
    measurement = run.measurement
    if measurement.step > 0:
        predicted = run.plan.prediction.time.step if run.plan is not None else 0.0
        yield _compared(Outcome(name="Step time", predicted=predicted, measured=measurement.step))
    if run.samples_per_second:
        yield Tile(label="Throughput", value=f"{_count(run.samples_per_second)}/s", note="samples, loading included")
    found = gain(run.plan) if run.plan is not None else None
    if found is not None:
        tone: Tone = "good" if found.ratio >= 1 else "warn"
        yield Tile(label="Speed", value=f"{found.ratio:.2f} ×", note=f"{found.over}, in the trial", tone=tone)
    if measurement.memory > 0:
        peak = run.plan.prediction.memory.peak if run.plan is not None else 0
        yield _compared(Outcome(name="Peak memory", predicted=peak, measured=measurement.memory, unit="B"))
    losses = [record.loss for record in run.records if isfinite(record.loss)]
    if losses:
        yield Tile(label="Loss", value=f"{losses[-1]:.4g}", note=f"from {losses[0]:.4g} in {measurement.steps} steps")
    if not run.records:
        return
    word, tone, _ = equality(run)
    yield Tile(
        label="One device", value=word, note="same loss, gradients, parameters" if tone == "good" else "", tone=tone
    )


def _compared(outcome: Outcome) -> Tile:
    if outcome.error is None:
        return Tile(label=outcome.name, value=outcome.texts[1])
    within = abs(outcome.error) <= STEP_TARGET
    return Tile(
        label=outcome.name,
        value=outcome.texts[1],
        note=f"{outcome.texts[0]} predicted, {describe_error(outcome.error)}",
        tone="good" if within else "warn",
    )


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
