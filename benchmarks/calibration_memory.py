"""Fits what frameworks hold (`cost/memory/memory.toml`) to measured peaks and failures, and says how well it predicts.

Every framework's few factors are fitted to the logarithm of its rows' peaks, with a prior around what they mean, so
that a source with few rows moves them little; outliers count less. Errors are given in sample and with each model, each
number of workers or each tenth of the rows left out in turn.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize
from scipy.special import expit, ndtr

import meshwright.cost.memory
from meshwright.cost.memory import (
    Arrangement,
    Conventions,
    StageContent,
    conventions,
    fullest,
    stages_on,
    transformer_contents,
)
from meshwright.errors import UsageError
from meshwright.units import GIB
from published_memory import memory_of, published_memory, row_arrangement, row_conventions
from published_rows import PublishedRow, configuration, read_rows

# Error beyond which a row counts less, and the weight of priors against rows.
_OUTLIER, _PRIOR = 0.05, 0.05
# Where half of the runs are expected to fail, the width of its logarithm, and how many failures tell their own spread.
_LIMIT, _LIMIT_WIDTH, _MANY_FAILURES = 0.95, 0.1, 30
Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prior:
    """What a factor is expected to be.

    Args:
        mean: in the unit of the field.
        width: standard deviation; of the logarithm where `positive`.
        positive: whether it is fitted by its logarithm.
    """

    mean: float
    width: float
    positive: bool = True


_POSITIVE: Mapping[str, Prior] = {
    "activations": Prior(mean=1.05, width=0.15),
    "state": Prior(mean=1.05, width=0.1),
    "logits": Prior(mean=8.0, width=0.4),
    "fixed": Prior(mean=1.0 * GIB, width=1.0),
}
_BACKLOG: Mapping[str, Prior] = {
    "backlog.per_exchange": Prior(mean=0.5, width=0.5),
    "backlog.constant": Prior(mean=30.0, width=0.5),
    **{f"backlog.{name}": Prior(mean=0.0, width=3.0, positive=False) for name in ("offset", "single", "pair", "lead")},
}
FITTED: Mapping[tuple[str, ...], Mapping[str, Prior]] = {
    ("nanotron",): {
        "activations": Prior(mean=1.05, width=0.15),
        "logits": Prior(mean=8.0, width=0.4),
        "logits_kept": Prior(mean=4.0, width=0.4),
        "produced_share": Prior(mean=1.0, width=0.3),
        "layer": Prior(mean=1.0, width=0.5),
        "exchanged": Prior(mean=3.0, width=0.5),
        "fixed": Prior(mean=0.5 * GIB, width=1.0),
        **_BACKLOG,
    },
    ("deepspeed", "deepspeed-fp16", "megatron-3d"): _POSITIVE,
    ("sailor",): {name: _POSITIVE[name] for name in ("activations", "logits", "fixed")} | {
        "fixed": Prior(mean=4.0 * GIB, width=1.0)
    },
    ("aceso",): {name: _POSITIVE[name] for name in ("activations", "fixed")} | {
        "activations": Prior(mean=1.0, width=0.2)
    },
    ("torchtitan",): _POSITIVE,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A measured row, with everything worked out that no fitted factor changes.

    Args:
        model: its name, to leave it out.
        workers: likewise.
        measured: peak (B).
        capacity: of its device (B).
    """

    model: str
    workers: int
    conventions: str
    measured: float
    arrangement: Arrangement
    contents: tuple[StageContent, ...]
    capacity: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedMemory:
    """What was fitted.

    Args:
        rows: errors of every framework, in sample and with something left out.
        factors: of every framework's conventions.
    """

    rows: tuple[dict[str, Any], ...]
    factors: Mapping[str, Mapping[str, float]]


def fit_memory(path: Path, *, ways: Sequence[str]) -> FittedMemory:
    """Fits what frameworks hold to the rows of a file of measurements.

    Args:
        ways: what is left out in turn to see how far a fit carries over: `model`, `workers`, `tenth`.

    Raises:
        UsageError: no such file, or it lacks configuration columns.
    """
    rows = [(row, _configured(row)) for row in read_rows(path)]
    known = [(row, found) for row, found in rows if found is not None]
    samples = [
        _sample(found, float(row["memory_gib"]) * GIB, row["model"])
        for row, found in known
        if row["status"] == "ok" and row["memory_gib"]
    ]
    factors: dict[str, dict[str, float]] = {}
    errors: list[dict[str, Any]] = []
    for names, priors in FITTED.items():
        mine = [sample for sample in samples if sample.conventions in names]
        if mine:
            values, found = _report(names, priors, mine, ways)
            factors |= {name: dict(values) for name in names}
            errors += found
    for name, values in _limits(known, factors).items():
        factors.setdefault(name, {}).update(values)
    return FittedMemory(rows=tuple(errors), factors=factors)


def _report(
    names: tuple[str, ...], priors: Mapping[str, Prior], samples: Sequence[Sample], ways: Sequence[str]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """A framework's factors, and its errors."""
    values = _fit(priors, samples)
    errors = [_errors_row(names, "nothing", _errors(priors, values, samples))]
    groups: dict[str, Callable[[int, Sample], object]] = {
        "model": lambda _, sample: sample.model,
        "workers": lambda _, sample: sample.workers,
        "tenth": lambda index, _: index % 10,
    }
    left_out = _errors(priors, values, samples)
    for label in ways:
        keys = [groups[label](index, sample) for index, sample in enumerate(samples)]
        if len(set(keys)) < 2:
            continue
        for key in dict.fromkeys(keys):
            inside = np.array([other == key for other in keys])
            found = _fit(priors, [sample for sample, out in zip(samples, inside, strict=True) if not out])
            left_out[inside] = _errors(priors, found, [s for s, out in zip(samples, inside, strict=True) if out])
        errors.append(_errors_row(names, label, left_out))
    spread = float(np.quantile(np.abs(np.log1p(left_out)), 0.9)) / 1.645
    return dict(zip(priors, values, strict=True)) | {"spread": spread}, errors


def _errors_row(names: tuple[str, ...], label: str, errors: Vector) -> dict[str, Any]:
    size = np.abs(errors)
    return {
        "memory of": " ".join(names), "left out": label, "rows": len(errors), "median": float(np.median(size)),
        "p90": float(np.quantile(size, 0.9)), "bias": float(np.median(errors)),
    }  # fmt: skip


def _fit(priors: Mapping[str, Prior], samples: Sequence[Sample]) -> list[float]:
    """Most likely factors."""
    items = list(priors.values())

    def residuals(unknown: Vector) -> Vector:
        errors = np.log1p(_errors(priors, _values(items, unknown), samples))
        # Rows beyond the outlier bound count linearly; priors always count squared.
        robust = np.sign(errors) * _OUTLIER * np.sqrt(2 * (np.sqrt(1 + (errors / _OUTLIER) ** 2) - 1))
        return np.concatenate([robust, _PRIOR * unknown])

    found = least_squares(residuals, np.zeros(len(items)), max_nfev=60)
    return _values(items, found.x)


def _values(priors: Sequence[Prior], unknown: Vector) -> list[float]:
    """Fields from unknowns that count standard deviations of the priors."""
    return [
        float(prior.mean * np.exp(prior.width * step) if prior.positive else prior.mean + prior.width * step)
        for prior, step in zip(priors, unknown, strict=True)
    ]


def _errors(priors: Mapping[str, Prior], values: Sequence[float], samples: Sequence[Sample]) -> Vector:
    """Predicted over measured, less 1."""
    cache: dict[str, Conventions] = {}
    errors = []
    for sample in samples:
        own = cache.get(sample.conventions)
        if own is None:
            own = cache[sample.conventions] = with_values(
                conventions(sample.conventions), dict(zip(priors, values, strict=True))
            )
        errors.append(_peak(sample, own) / sample.measured - 1)
    return np.array(errors)


def _peak(sample: Sample, own: Conventions) -> float:
    contents = sample.contents[:1] if own.seen == "first" else sample.contents
    return fullest(stages_on(sample.capacity, contents, sample.arrangement, own)).memory.peak


def with_values(own: Conventions, values: Mapping[str, float]) -> Conventions:
    """Conventions with other factors; those of the backlog are named `backlog.…`."""
    backlog = {name.removeprefix("backlog."): value for name, value in values.items() if name.startswith("backlog.")}
    plain = {name: value for name, value in values.items() if not name.startswith("backlog.")}
    return replace(own, **plain, backlog=replace(own.backlog, **backlog) if backlog else own.backlog)  # type: ignore[arg-type]


def _configured(row: Mapping[str, str]) -> PublishedRow | None:
    try:
        return configuration(row)
    except UsageError:
        return None


def _sample(row: PublishedRow, measured: float, model: str) -> Sample:
    own = row_conventions(row)
    arrangement = row_arrangement(row, own)
    return Sample(
        model=model,
        workers=row.num_devices,
        conventions=own.name,
        measured=measured,
        arrangement=arrangement,
        contents=transformer_contents(row.model, arrangement, own),
        capacity=memory_of(row.device),
    )


def _limits(
    rows: Sequence[tuple[Mapping[str, str], PublishedRow]], changed: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Shares of the device's memory at which half of each framework's runs fail."""
    outcomes: dict[str, list[tuple[float, bool]]] = {}
    for row, configured in rows:
        own = row_conventions(configured)
        predicted = published_memory(configured, own=replace(with_values(own, changed.get(own.name, {})), limit=1.0))
        if not predicted.reason:
            outcomes.setdefault(own.name, []).append((predicted.share, row["status"] != "ok"))
    found: dict[str, dict[str, float]] = {}
    for name, pairs in outcomes.items():
        spread = changed.get(name, {}).get("spread", conventions(name).spread)
        shares, failed = np.log([share for share, _ in pairs]), np.array([fails for _, fails in pairs])
        found[name] = _threshold(shares, failed, spread=spread)
    return found


def _threshold(shares: Vector, failed: NDArray[np.bool_], *, spread: float) -> dict[str, float]:
    """The share at which half fail and its spread, most likely beside crashes that have nothing to do with memory.

    Where few failed, the prior says that runs fail near the device's memory, with the spread of the peaks' errors.
    """
    few = failed.sum() < _MANY_FAILURES

    def unlikeliness(unknown: Vector) -> float:
        width, crashes = spread if few else np.exp(unknown[1]), expit(unknown[2])
        probability = np.clip(crashes + (1 - crashes) * ndtr((shares - unknown[0]) / width), 1e-9, 1 - 1e-9)
        likelihood = float(np.where(failed, np.log(probability), np.log1p(-probability)).sum())
        return 0.5 * float((unknown[0] - np.log(_LIMIT)) / _LIMIT_WIDTH) ** 2 - likelihood

    found = minimize(unlikeliness, [np.log(_LIMIT), np.log(0.1), -3.0], method="Nelder-Mead").x
    return {"limit": float(np.exp(found[0])), "limit_spread": spread if few else float(np.exp(found[1]))}


def write_memory(changed: Mapping[str, Mapping[str, float]]) -> None:
    """Puts factors into `memory.toml`, keeping facts and comments."""
    path = Path(meshwright.cost.memory.__file__).with_name("memory.toml")
    text = path.read_text("utf-8")
    for name, values in changed.items():
        for field, value in values.items():
            section, key = (f"{name}.backlog", field[8:]) if field.startswith("backlog.") else (name, field)
            text = _put(text, section, key, value)
    path.write_text(text, "utf-8")


def _put(text: str, section: str, key: str, value: float) -> str:
    line = f"{key} = {round(value)}" if key == "fixed" else f"{key} = {value:.4g}"
    start = text.index(f"[{section}]\n") + len(section) + 3
    match = re.compile(r"^\[", re.MULTILINE).search(text, start)
    end = match.start() if match else len(text)
    body = text[start:end]
    pattern = re.compile(rf"^{key} = .*$", re.MULTILINE)
    if pattern.search(body):
        body = pattern.sub(line, body)
    else:
        last = max(found.end() for found in re.finditer(r"^\w+ = .*\n", body, re.MULTILINE))
        body = body[:last] + f"{line}\n" + body[last:]
    return text[:start] + body + text[end:]
