"""The candidates of a plan as a table: the chosen one marked, the others with their reasons."""

from rich.table import Table
from rich.text import Text

from meshwright.plan import Candidate, Plan
from meshwright.units import format_bytes, format_seconds


def plan_table(plan: Plan) -> Table:
    """Everything that was considered for a plan: what was predicted, what was tried, and why it was not chosen."""
    table = Table(title=f"Plans considered for {plan.model}", title_justify="left")
    table.add_column("")
    table.add_column("plan", overflow="fold")
    for column in ("predicted", "tried", "memory"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("why not", overflow="fold")
    for index, candidate in enumerate(plan.candidates):
        _add(table, candidate, mark="✓" if index == 0 else "")
    return table


def _add(table: Table, candidate: Candidate, *, mark: str) -> None:
    style = "bold green" if mark else "" if candidate.fits else "dim"
    table.add_row(
        mark,
        Text(candidate.summary),
        format_seconds(candidate.step) if candidate.step else "–",
        format_seconds(candidate.trial) if candidate.trial else "–",
        format_bytes(candidate.memory) if candidate.memory else "–",
        Text(candidate.reason),
        style=style,
    )
