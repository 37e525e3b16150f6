r"""What runs on this machine took beside what they were predicted to take, and the correction that follows from it.

Ratios of times are spread like a log-normal, so the correction is their geometric mean,
$\exp(\overline{\ln(\text{measured} / \text{predicted})})$, over recent runs.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import exp, floor, log, log10, sqrt
from statistics import fmean

from meshwright.documents import from_mapping, to_json
from meshwright.errors import DocumentError
from meshwright.hardware._cache import outcomes_path
from meshwright.hardware._correction import Correction
from meshwright.units import FLOP, Bytes, Seconds

# An older run says less about the machine as it is now: drivers, neighbours and libraries change.
RECENT = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a run was predicted to take, and what it took.

    Args:
        kind: predictions of one kind err alike; made by `outcome_kind`.
        basis: of the prediction: `model` or `trial`.
        predicted_step: per step (s).
        measured_step: per step, median (s).
        predicted_memory: peak of the fullest worker (B); 0 where unknown.
        measured_memory: peak of the fullest worker (B); 0 where unknown.
        applied: the correction that the prediction contains already.
        recorded_at: ISO 8601 date and time; empty: now.
    """

    kind: str
    basis: str = "model"
    predicted_step: Seconds
    measured_step: Seconds
    predicted_memory: Bytes = 0
    measured_memory: Bytes = 0
    applied: Correction = Correction()
    recorded_at: str = ""


def outcome_kind(*, model: str, flops: FLOP, device: str, split: str = "") -> str:
    """The kind that predictions for a model are filed under: `GPT, 10^11 FLOP, on cpu, split by tensor`.

    A class name alone says little (`Sequential`): what errs on a step of 100 µs says nothing of one of 100 ms.

    Args:
        model: class name.
        flops: of one step (FLOP).
        device: kind of the devices.
        split: axes that split the model, whose exchanges err as whole models do not; empty: none.
    """
    decade = floor(log10(flops)) if flops >= 1 else 0
    return f"{model}, 10^{decade} FLOP, on {device}{f', split by {split}' if split else ''}"


def record_outcome(identity: str, outcome: Outcome) -> None:
    """Keeps what a run took beside the calibration of the machine that it ran on.

    Args:
        identity: of the machine, as `identity()` gives it.
        outcome: predicted and measured.

    Raises:
        DocumentError: the cache folder cannot be written.
    """
    path = outcomes_path(identity)
    dated = replace(outcome, recorded_at=outcome.recorded_at or datetime.now(UTC).isoformat(timespec="seconds"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(to_json(dated) + "\n")  # one write: runs that end at the same time do not mix their lines
    except OSError as error:
        raise DocumentError(
            f"cannot write {path}: {error.strerror}",
            cause="the outcome of this run improves the next prediction, and is kept there",
            alternatives=["name a folder that can be written: MESHWRIGHT_CACHE=FOLDER"],
        ) from None


def recorded_outcomes(identity: str) -> tuple[Outcome, ...]:
    """Every outcome kept for a machine, oldest first; lines of another version, or cut short, are left out."""
    path = outcomes_path(identity)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()
    found = (_outcome(line, str(path)) for line in lines)
    return tuple(outcome for outcome in found if outcome is not None)


def correction(identity: str, kind: str, *, basis: str = "model") -> Correction:
    """What to multiply a prediction by, from the recent outcomes of the same kind on this machine.

    The default spread counts as one outcome more, so that two runs that happen to agree do not promise certainty.

    Args:
        identity: of the machine.
        kind: of the prediction, as its outcomes were recorded.
        basis: `model` or `trial`, which err differently.

    Returns:
        The default where there is no outcome of this kind.
    """
    same = [outcome for outcome in recorded_outcomes(identity) if (outcome.kind, outcome.basis) == (kind, basis)]
    times = _logarithms([(one.measured_step, one.predicted_step, one.applied.time) for one in same[-RECENT:]])
    memories = _logarithms([(one.measured_memory, one.predicted_memory, one.applied.memory) for one in same[-RECENT:]])
    default = Correction()
    mean = fmean(times) if times else 0.0
    deviations = sum((value - mean) ** 2 for value in times)
    return Correction(
        time=exp(mean),
        spread=sqrt((default.spread**2 + deviations) / (1 + len(times))),
        memory=exp(fmean(memories)) if memories else 1.0,
    )


def _logarithms(figures: Sequence[tuple[float, float, float]]) -> list[float]:
    """ln(measured / predicted), the correction taken out of the prediction; unknown figures are left out."""
    return [
        log(measured * applied / predicted)
        for measured, predicted, applied in figures
        if measured > 0 and predicted > 0
    ]


def _outcome(line: str, where: str) -> Outcome | None:
    try:
        return from_mapping(Outcome, json.loads(line), where=where)
    except (ValueError, DocumentError):
        return None
