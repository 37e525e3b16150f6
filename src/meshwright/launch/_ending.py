"""What is done once the workers have ended: the run in sum, and what it teaches about this machine."""

import dataclasses
import json
from statistics import median

from meshwright.cost import Measurement, TimeBreakdown
from meshwright.documents import read_toml, write_toml
from meshwright.hardware import Cluster, Correction, Outcome, identity, record_outcome
from meshwright.launch._run_folder import RunFolder
from meshwright.plan import Plan

NUM_FIRST_STEPS = 3
FEWEST_STEPS_TO_LEARN_FROM = 10


def sum_up(folder: RunFolder, *, status: str, reason: str = "") -> Measurement:
    """The run in sum as its rank 0 wrote it, or from the steps it recorded where it died before it could.

    Args:
        folder: the run's.
        status: `finished`, `interrupted` or `failed`, as the launcher saw it.
        reason: what ended the run, unless finished.
    """
    written = read_toml(Measurement, folder.measurement) if folder.measurement.is_file() else from_records(folder)
    measurement = dataclasses.replace(written, status=status, reason=reason)
    write_toml(measurement, folder.measurement)
    return measurement


def from_records(folder: RunFolder) -> Measurement:
    """The run in sum from `metrics.jsonl`, leaving out a last line that is half written."""
    text = folder.metrics.read_text(encoding="utf-8") if folder.metrics.is_file() else ""
    records = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    later = records[NUM_FIRST_STEPS:] or records
    durations = sorted(record["duration"] for record in later) or [0.0]
    return Measurement(
        status="failed",
        steps=records[-1]["step"] if records else 0,
        step=median(durations),
        low=durations[int(0.05 * (len(durations) - 1))],
        high=durations[int(0.95 * (len(durations) - 1))],
        time=TimeBreakdown(
            **{
                field.name: median([record["time"].get(field.name, 0.0) for record in later] or [0.0])
                for field in dataclasses.fields(TimeBreakdown)
            }
        ),
        memory=max((record["memory"] for record in records), default=0),
    )


def remember(plan: Plan, measurement: Measurement, *, cluster: Cluster, load: float) -> None:
    """Keeps predicted and measured beside this machine's calibration, for the next prediction.

    A run that was cut off or very short says little; one on other hardware, or under a plan made for other hardware,
    says nothing about this machine's calibration. Where a trial stands behind the prediction, the model's own price of
    the same plan is compared too.

    Args:
        plan: that was followed.
        measurement: the run in sum.
        cluster: that it ran on.
        load: share of the processor that others used meanwhile (0 to 1).

    Raises:
        DocumentError: the cache folder cannot be written.
    """
    enough = measurement.status == "finished" and measurement.steps >= FEWEST_STEPS_TO_LEARN_FROM
    if not enough or not plan.kind or cluster.identity != identity() or not plan.cluster.endswith(cluster.identity):
        return
    prices = {plan.prediction.basis: plan.prediction.time.step}
    if plan.candidates and plan.candidates[0].step:
        prices["model"] = plan.candidates[0].step
    for basis, price in prices.items():
        outcome = Outcome(
            kind=plan.kind,
            basis=basis,
            predicted_step=price,
            measured_step=measurement.step,
            predicted_memory=plan.prediction.memory.peak,
            measured_memory=measurement.memory,
            applied=plan.corrections.get(basis, Correction()),
            load=load,
            planned_load=plan.load,
        )
        record_outcome(cluster.identity, outcome)
