"""Which figures a page shows: those for which the runs have numbers."""

from collections.abc import Iterator
from math import isfinite

from meshwright.cost import TimeBreakdown
from meshwright.report._breakdowns import memory_bars, memory_figure, time_figure
from meshwright.report._comparison import labels
from meshwright.report._curves import Series, loss_figure, step_figure
from meshwright.report._figure import Figure
from meshwright.report._outcome import Outcome, describe_error
from meshwright.report._pipeline_timeline import pipeline_figure
from meshwright.report._run_data import Run
from meshwright.report._verdict import verify_command
from meshwright.units import format_bytes, format_seconds

SAME_LOSS = 1e-3


def pictures(run: Run) -> list[Figure]:
    """The figures of one run."""
    return [*_breakdowns(run), *_timeline(run), *_curves(run)]


def pictures_of_both(first: Run, second: Run) -> list[Figure]:
    """The figures of two runs, each with both of them in it."""
    runs = list(zip(labels(first, second), (first, second), strict=True))
    bars: list[tuple[tuple[str, ...], TimeBreakdown]] = []
    for name, run in runs:
        bars += [((name, "predicted"), run.plan.prediction.time)] if run.plan is not None else []
        bars += [((name, "measured"), run.measurement.time)] if run.measurement.time.step > 0 else []
    figures = [time_figure(bars, caption="The slowest worker’s step of both runs, item by item.")] if bars else []
    memory = [(name, run.plan.prediction.memory, run.measurement.memory) for name, run in runs if run.plan is not None]
    figures += [memory_bars(memory)] if memory else []
    colors = ("--predicted", "--reference")
    losses = [
        Series(name=name, points=_losses(run), color=color) for (name, run), color in zip(runs, colors, strict=True)
    ]
    steps = [
        Series(name=name, points=_durations(run), color=color) for (name, run), color in zip(runs, colors, strict=True)
    ]
    if any(one.points for one in losses):
        figures.append(loss_figure(losses, caption="Global mean loss of both runs."))
        figures.append(step_figure(steps, interval=None, predicted=0.0, caption="Every step of both runs."))
    return figures


def _breakdowns(run: Run) -> Iterator[Figure]:
    if run.plan is None:
        return
    prediction, measurement = run.plan.prediction, run.measurement
    bars: list[tuple[tuple[str, ...], TimeBreakdown]] = [(("predicted",), prediction.time)]
    caption = f"{format_seconds(prediction.time.step)} predicted on the slowest worker; nothing was measured."
    if measurement.time.step > 0:
        bars.append((("measured",), measurement.time))
        step = Outcome(name="step", predicted=prediction.time.step, measured=measurement.step)
        caption = (
            f"{step.texts[0]} predicted, {step.texts[1]} measured on the slowest worker: "
            f"{describe_error(step.error)}. Measured items are medians; exchange that the backward hides is left out."
        )
    yield time_figure(bars, caption=caption)
    peak = Outcome(name="memory", predicted=prediction.memory.peak, measured=measurement.memory, unit="B")
    limit = f", {format_bytes(run.plan.memory_limit)} allowed" if run.plan.memory_limit else ""
    caption = (
        f"{peak.texts[0]} predicted, item upon item; {peak.texts[1]} measured ({describe_error(peak.error)}){limit}."
    )
    yield memory_figure(prediction.memory, measured=measurement.memory, limit=run.plan.memory_limit, caption=caption)


def _timeline(run: Run) -> Iterator[Figure]:
    if run.plan is None:
        return
    figure = pipeline_figure(run.plan.strategy, run.plan.prediction.stages, run.traces)
    if figure is not None:
        yield figure


def _curves(run: Run) -> Iterator[Figure]:
    if not run.records:
        return
    lines = [Series(name="this run", points=_losses(run), color="--predicted")]
    reference = _reference(run)
    if reference:
        lines.insert(0, Series(name="one device", points=reference, color="--reference-wash", width=7))
    yield loss_figure(lines, caption=_loss_caption(run, reference))
    prediction = run.plan.prediction if run.plan is not None else None
    durations = _durations(run)
    caption = f"Median {format_seconds(run.measurement.step)}, the first steps left out."
    if prediction is not None:
        inside = sum(prediction.low <= value <= prediction.high for _, value in durations)
        caption += (
            f" {inside} of {len(durations)} steps lie in the predicted interval of "
            f"{format_seconds(prediction.low)} to {format_seconds(prediction.high)}."
        )
    yield step_figure(
        [Series(name="measured", points=durations, color="--measured")],
        interval=(prediction.low, prediction.high) if prediction is not None else None,
        predicted=prediction.time.step if prediction is not None else 0.0,
        caption=caption,
    )


def _reference(run: Run) -> tuple[tuple[int, float], ...]:
    """The one-device program's losses: of its own run where there is one, else of the steps that were verified.

    A proof that set dropout aside has other losses than the run, on both of its sides; those are not drawn. Nor is the
    one-device program where its batches were others.
    """
    proof = run.verification
    own = dict(_losses(run))
    if run.reference:
        return run.reference if _is_of_the_same_batches(run.reference, own) else ()
    if proof is None:
        return ()
    pairs = [(own[step], loss) for step, loss in enumerate(proof.losses, start=1) if step in own]
    alike = all(abs(ours - proved) <= SAME_LOSS * max(1.0, abs(proved)) for ours, proved in pairs)
    return tuple(enumerate(proof.reference_losses, start=1)) if pairs and alike else ()


def _loss_caption(run: Run, reference: tuple[tuple[int, float], ...]) -> str:
    if not reference and run.reference:
        return "The one-device program was run, but its batches were others: seed the loader to have its loss here."
    if not reference and run.verification is not None:
        notes = "; ".join(run.verification.notes) or "its batches were others"
        return f"The proof’s losses are not beside it, because they are not of this run’s steps: {notes}."
    if not reference:
        return f"For the one-device program’s loss beside it: {verify_command(run)}"
    own = dict(_losses(run))
    apart = [
        abs(own[step] - loss) for step, loss in reference if step in own and isfinite(loss) and isfinite(own[step])
    ]
    if not apart:
        return "The one-device program was run, over other steps than these."
    if max(apart) == 0:
        return f"The very loss of the one-device program in each of the {len(apart)} steps that both did."
    return f"At most {max(apart):.2g} from the one-device program over the {len(apart)} steps that both did."


def _is_of_the_same_batches(reference: tuple[tuple[int, float], ...], own: dict[int, float]) -> bool:
    """Whether the first loss is the same: before any update, only other examples give another one."""
    step, loss = reference[0]
    return step not in own or abs(own[step] - loss) <= SAME_LOSS * max(1.0, abs(loss))


def _losses(run: Run) -> tuple[tuple[int, float], ...]:
    return tuple((record.step, record.loss) for record in run.records)


def _durations(run: Run) -> tuple[tuple[int, float], ...]:
    return tuple((record.step, record.duration) for record in run.records)
