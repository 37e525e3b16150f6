"""What runs on this machine took beside what they were predicted to take, kept beside its calibration."""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import floor, log10

from meshwright.documents import from_mapping, to_json
from meshwright.errors import DocumentError
from meshwright.hardware._cache import outcomes_path
from meshwright.hardware._correction import Correction
from meshwright.units import FLOP, Bytes, Seconds


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
        load: share of the processor that others used while it ran (0 to 1).
        planned_load: the same while its plan was made and tried.
        recorded_at: ISO 8601 date and time; empty: now.
    """

    kind: str
    basis: str = "model"
    predicted_step: Seconds
    measured_step: Seconds
    predicted_memory: Bytes = 0
    measured_memory: Bytes = 0
    applied: Correction = Correction()
    load: float
    planned_load: float
    recorded_at: str = ""


def outcome_kind(*, model: str, parameters: int, flops: FLOP, device: str, form: str = "") -> str:
    """The kind that predictions are filed under: `GPT of 10^5 parameters, 10^11 FLOP, on cpu, split by tensor`.

    A class name alone says little (`Sequential`, and every project has its `GPT`): what errs on a step of 100 µs says
    nothing of one of 100 ms.

    Args:
        model: class name.
        parameters: elements of all.
        flops: of one step (FLOP).
        device: kind of the devices.
        form: what makes its steps unlike those of whole models on one host; empty: nothing.
    """
    size = f"of 10^{_decade(parameters)} parameters, 10^{_decade(flops)} FLOP"
    return f"{model} {size}, on {device}{f', {form}' if form else ''}"


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


def _outcome(line: str, where: str) -> Outcome | None:
    try:
        return from_mapping(Outcome, json.loads(line), where=where)
    except (ValueError, DocumentError):
        return None


def _decade(figure: float) -> int:
    return floor(log10(figure)) if figure >= 1 else 0
