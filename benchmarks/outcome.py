"""What every benchmark prints: the machine, its measurements, one check per target.

With `--json` one object: `{"machine": …, "rows": […], "checks": [{"name", "value", "target", "holds"}]}`. The exit code
is 1 where a check does not hold.
"""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One target and whether it was reached.

    Args:
        name: what was asked for.
        value: what was measured.
        target: in words, with its bound.
        holds: whether the value meets the target.
    """

    name: str
    value: float
    target: str
    holds: bool


def at_least(name: str, value: float, bound: float) -> Check:
    """A check that a value is not below a bound."""
    return Check(name=name, value=value, target=f">= {bound:g}", holds=value >= bound)


def at_most(name: str, value: float, bound: float) -> Check:
    """A check that a value is not above a bound."""
    return Check(name=name, value=value, target=f"<= {bound:g}", holds=value <= bound)


def machine() -> dict[str, Any]:
    """The machine a benchmark ran on, when, and under what load of other processes (share of all cores)."""
    return {
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "system": platform.platform(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load": psutil.cpu_percent(interval=0.5) / 100,
    }


def publish(
    rows: Sequence[Mapping[str, Any]], checks: Sequence[Check], *, there: Mapping[str, Any], as_json: bool
) -> int:
    """Prints the outcome, as tables or as one JSON object.

    Returns:
        The exit code: 0 where every check holds, else 1.
    """
    if as_json:
        print(
            json.dumps(
                {"machine": dict(there), "rows": [dict(row) for row in rows], "checks": [asdict(c) for c in checks]}
            )
        )
    else:
        _print_tables(rows, checks, there=there)
    return 0 if all(check.holds for check in checks) else 1


def _print_tables(rows: Sequence[Mapping[str, Any]], checks: Sequence[Check], *, there: Mapping[str, Any]) -> None:
    console = Console()
    console.print(f"{there['processor']}, {there['cores']} cores, {there['date']}, load before {there['load']:.0%}")
    if rows:
        table = Table(show_header=False)
        for name in rows[0]:
            table.add_row(name, *(_cell(row[name]) for row in rows))
        console.print(table)
    for check in checks:
        console.print(
            f"{'holds ' if check.holds else 'MISSED'}  {check.name}: {check.value:.4g} (target {check.target})"
        )


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
