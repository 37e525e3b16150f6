"""Fits the rules of which runs stall: for each the limits that make the fewest runs' errors large, if any do.

Rule by rule, until none changes: every combination of a rule's limits is tried beside the other rules as they are, and
a rule that does not take away the errors of a few runs is left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration_fit import STALLING, Problem, Vector
from meshwright.cost.accelerator import Messages, Stalls, messages_of, stall_time, stalls, step_time

# Limits tried, by rule and the forms that it may have, those first by which fewer runs wait: what was not seen does
# not. Limits that a form does not name never hold.
_LARGE = {"examples": (4, 2), "parameters": (5e9, 0)}
_MANY = {"many_hosts": (64, 32, 16)}
_RULES: Sequence[Sequence[Mapping[str, Sequence[float]]]] = (
    ({"hosts": (128, 64, 32, 16)},),
    ({"whole_hosts": (16, 8, 4, 2), "rounds": (64, 32, 16, 8)},),
    ({"wide": (64, 32, 16), "wide_hosts": (32, 16, 8)},),
    (_MANY | {"ranks": (64, 32, 16)}, _MANY | _LARGE, _MANY | {"ranks": (64, 32, 16)} | _LARGE),
    ({"full": (1.0, 0.95, 0.92, 0.9, 0.88, 0.86)},),
)
# Of |predicted / measured - 1|: the most that one run counts, and what a rule has to save. A run that waits unforeseen
# costs 1 at most, one that is said to wait and does not costs several.
_MOST, _RULE = 5.0, 3.0
_PASSES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Waits:
    """Runs of the framework that stalls: how long they take with and without.

    Args:
        rows: of them among all points.
        messages: what each run's depend on.
        smooth: without a stall (s).
        stall: what it would add (s).
        measured: seconds.
    """

    rows: NDArray[np.intp]
    messages: tuple[Messages, ...]
    smooth: Vector
    stall: Vector
    measured: Vector

    @classmethod
    def of(cls, problem: Problem, logs: Vector) -> "Waits":
        """Those among a problem's points, at some parameters."""
        fitted = problem.calibration(logs)
        found = [
            (row, point, point.setup, point.machine)
            for row, point in enumerate(problem.points)
            if point.framework == STALLING and point.setup is not None and point.machine is not None
        ]
        times = [step_time(setup, machine, fitted=fitted) for _, _, setup, machine in found]
        messages = tuple(messages_of(setup, machine) for _, _, setup, machine in found)
        return cls(
            rows=np.array([row for row, *_ in found], dtype=np.intp),
            messages=messages,
            smooth=np.array([time.step - time.stall for time in times]),
            stall=np.array([stall_time(fitted.frameworks[STALLING], run) for run in messages]),
            measured=np.array([point.measured for _, point, *_ in found]),
        )


def fit_stalls(seen: Waits, *, kept: NDArray[np.bool_] | None = None) -> dict[str, Any]:
    """Limits of the rules that help.

    Args:
        kept: points that may be looked at; None: all.
    """
    inside = np.flatnonzero(kept[seen.rows]) if kept is not None else np.arange(len(seen.rows))
    if not len(inside):
        return {}
    without = np.minimum(_MOST, np.abs(seen.smooth / seen.measured - 1))[inside]
    waiting = np.minimum(_MOST, np.abs((seen.smooth + seen.stall) / seen.measured - 1))[inside]
    runs = [seen.messages[index] for index in inside]
    flags = {choice: np.array([stalls(choice, run) for run in runs]) for choice in _choices()}
    return _document(_chosen(flags, waiting - without))


def _chosen(flags: Mapping[Stalls, NDArray[np.bool_]], more: Vector) -> list[Stalls]:
    """The best choice of each rule beside the others.

    Args:
        flags: which runs each choice says wait.
        more: what is lost where a run is said to wait.
    """
    nothing = np.zeros(len(more), dtype=bool)
    chosen: list[Stalls] = [Stalls()] * len(_RULES)
    for _ in range(_PASSES):
        for number in range(len(_RULES)):
            others = [flags[choice] for other, choice in enumerate(chosen) if other != number and choice != Stalls()]
            beside = np.logical_or.reduce([nothing, *others])
            options = [Stalls(), *(choice for rule, choice in _numbered() if rule == number)]
            losses = [_loss(flags.get(choice, nothing) | beside, more, choice) for choice in options]
            chosen[number] = options[int(np.argmin(losses))]
    return chosen


def _loss(waits: NDArray[np.bool_], more: Vector, choice: Stalls) -> float:
    return float(more[waits].sum()) + (0.0 if choice == Stalls() else _RULE)


def _numbered() -> Iterator[tuple[int, Stalls]]:
    """Every choice of limits, with the number of its rule."""
    for number, forms in enumerate(_RULES):
        for form in forms:
            for limits in product(*form.values()):
                yield number, replace(Stalls(), **dict(zip(form, limits, strict=True)))


def _choices() -> list[Stalls]:
    return [choice for _, choice in _numbered()]


def _document(chosen: Sequence[Stalls]) -> dict[str, Any]:
    """The limits that differ from never, together."""
    never = Stalls()
    names = [item.name for item in fields(Stalls)]
    return {
        name: getattr(choice, name)
        for choice in chosen
        for name in names
        if getattr(choice, name) != getattr(never, name)
    }
