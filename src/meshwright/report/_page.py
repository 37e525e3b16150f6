"""The page about a run, or about two: one HTML file that loads nothing from the network."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from meshwright import __version__
from meshwright.documents import write_text
from meshwright.hardware import Cluster
from meshwright.plan import Candidate, Plan
from meshwright.report._comparison import compare, labels
from meshwright.report._figure import Figure
from meshwright.report._grid import Grid, grid
from meshwright.report._hardware_table import hardware_rows
from meshwright.report._outcome import Outcome, outcomes
from meshwright.report._pictures import pictures, pictures_of_both
from meshwright.report._provenance import settings
from meshwright.report._run_data import Run, read_run
from meshwright.report._verdict import judge
from meshwright.units import format_bytes, format_seconds

LEADING_CANDIDATES = 12
WIDEST_BAR = 90
MOST_TIMES = 4.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateRow:
    """A candidate as the page shows it; widths are of bars (px), cut off at a step four times the chosen one."""

    summary: str
    chosen: bool
    step: str
    step_width: int
    trial: str
    trial_width: int
    memory: str
    reason: str


def write_page(folder: Path, other: Path | None = None, output: Path | None = None) -> Path:
    """Writes the page about a run, or about two runs compared, and gives its path.

    Args:
        folder: the run.
        other: a second run, to compare with the first.
        output: the page; `report.html` in the (second) run's folder where none is given.

    Raises:
        UsageError: a folder holds no run; lists the runs near by.
        DocumentError: a file in a folder does not say what it should, or the page cannot be written.
    """
    runs = [read_run(Path(folder))] + ([read_run(Path(other))] if other is not None else [])
    place = output or runs[-1].folder / ("report.html" if other is None else "comparison.html")
    write_text(place, page(runs))
    return place


def page(runs: Sequence[Run]) -> str:
    """The page's HTML: of one run, or of two compared."""
    figures = pictures(runs[0]) if len(runs) == 1 else pictures_of_both(runs[0], runs[1])
    context = _context_of_one(runs[0]) if len(runs) == 1 else _context_of_both(runs[0], runs[1])
    # Loaded here: half of what the tables of the terminal would otherwise wait for.
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("meshwright.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    template = environment.get_template("run.html.j2" if len(runs) == 1 else "comparison.html.j2")
    return template.render(
        **context,
        version=__version__,
        figures={figure.key: figure for figure in figures},
        data=_script_data(figures),
        plotly=Markup(get_plotlyjs()),
    )


def _context_of_one(run: Run) -> dict[str, Any]:
    rows = _candidate_rows(run.plan) if run.plan is not None else []
    return {
        "title": f"{run.name} · Meshwright",
        "run": run,
        "verdict": judge(run),
        "grid": _grid(run),
        "outcomes": _outcomes(run),
        "reasons": _reasons(run.plan) if run.plan is not None else [],
        "leading": rows[:LEADING_CANDIDATES],
        "others": rows[LEADING_CANDIDATES:],
        "settings": settings(run.settings),
        "machine": _machine(run.cluster),
    }


def _context_of_both(first: Run, second: Run) -> dict[str, Any]:
    names = labels(first, second)
    sides = [
        {
            "label": name,
            "verdict": judge(run),
            "grid": _grid(run),
            "outcomes": _outcomes(run),
            "settings": settings(run.settings),
        }
        for name, run in zip(names, (first, second), strict=True)
    ]
    return {
        "title": f"{names[0]} and {names[1]} · Meshwright",
        "runs": (first, second),
        "labels": names,
        "comparison": compare(first, second),
        "sides": sides,
    }


def _reasons(plan: Plan) -> list[tuple[str, str]]:
    """What binds the plan and what would flip the choice, each with its name."""
    binding = [("what binds", plan.binding)] if plan.binding else []
    return binding + [("what would flip it", flip) for flip in plan.flips]


def _grid(run: Run) -> Grid | None:
    if run.plan is None:
        return None
    return grid(run.plan.strategy, memory=run.measurement.memory_by_rank, limit=run.plan.memory_limit)


def _outcomes(run: Run) -> tuple[Outcome, ...]:
    return outcomes(run.plan.prediction, run.measurement) if run.plan is not None and run.records else ()


def _machine(cluster: Cluster | None) -> list[tuple[str, str]]:
    return hardware_rows(cluster) if cluster is not None else []


def _candidate_rows(plan: Plan) -> list[CandidateRow]:
    """The chosen candidate, then those that were tried, then those that were priced, then the rest; fastest first."""
    chosen, rest = plan.candidates[:1], plan.candidates[1:]
    full = MOST_TIMES * max((one.trial or one.step for one in chosen), default=1.0)
    return [_candidate_row(one, chosen=one in chosen, full=full) for one in (*chosen, *sorted(rest, key=_order))]


def _order(candidate: Candidate) -> tuple[bool, bool, float]:
    return candidate.trial <= 0, candidate.step <= 0, candidate.trial or candidate.step


def _candidate_row(candidate: Candidate, *, chosen: bool, full: float) -> CandidateRow:
    return CandidateRow(
        summary=candidate.summary,
        chosen=chosen,
        step=format_seconds(candidate.step) if candidate.step else "–",
        step_width=round(WIDEST_BAR * min(1.0, candidate.step / full)),
        trial=format_seconds(candidate.trial) if candidate.trial else "–",
        trial_width=round(WIDEST_BAR * min(1.0, candidate.trial / full)),
        memory=format_bytes(candidate.memory) if candidate.memory else "–",
        reason="chosen" if chosen else candidate.reason,
    )


def _script_data(figures: Sequence[Figure]) -> Markup:
    """The figures as JSON that is safe inside a script element."""
    data: Mapping[str, Any] = {
        figure.key: {"data": figure.traces, "layout": figure.layout, "height": figure.height} for figure in figures
    }
    return Markup(json.dumps(data, allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026"))
