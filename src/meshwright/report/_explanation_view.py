"""A plan's reasons for the terminal: what binds, where time and memory go, what comes next, what would flip it."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from meshwright.cost import RateSource
from meshwright.plan import Explanation, PlanDifference
from meshwright.units import format_bytes, format_seconds

WIDEST_BAR = 24
# Probability from which on running out of memory is worth a word.
SMALLEST_RISK = 0.005

RATES: Mapping[RateSource, str] = {
    "measured": "the machine’s measured rates",
    "written": "the cluster file’s figures",
    "fitted": "the catalogue’s figures and what published runs make of them",
}


def explanation_view(explanation: Explanation) -> RenderableType:
    """Why a plan was chosen, from its explanation alone."""
    found = explanation
    source = "timed in a trial" if found.basis == "trial" else f"from {RATES[found.rates]}"
    interval = f", between {format_seconds(found.low)} and {format_seconds(found.high)}" if found.high else ""
    head = Text.assemble((f"{found.model}: {found.summary}", "bold"))
    step = Text(f"{format_seconds(found.step)} per step{interval} ({source})")
    peak = sum(size for _, size in found.memory)
    limit = f" of {format_bytes(found.memory_limit)}" if found.memory_limit else ""
    tables = Columns(
        [
            _shares("Where the step’s time goes", found.time, write=format_seconds),
            _shares(f"Memory of the fullest worker: {format_bytes(peak)}{limit}", found.memory, write=format_bytes),
        ],
        padding=(1, 4),
    )
    return Group(head, step, tables, *_reasons(found), _decisions(found))


def difference_view(differences: Sequence[PlanDifference]) -> RenderableType:
    """What two plans have not in common, side by side."""
    if not differences:
        return Text("The two plans are the same.")
    table = Table(title="What differs", title_justify="left")
    for column in ("", "first", "second"):
        table.add_column(column, overflow="fold")
    for one in differences:
        table.add_row(one.name, Text(one.first), Text(one.second))
    return table


def _shares(title: str, items: Sequence[tuple[str, float]], *, write: Callable[[float], str]) -> Table:
    """Items with a bar each, in proportion to the largest."""
    table = Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
    total = sum(size for _, size in items) or 1.0
    largest = max((size for _, size in items), default=0.0) or 1.0
    for name, size in items:
        bar = "█" * max(1, round(WIDEST_BAR * size / largest))
        table.add_row(name, Text(write(size), justify="right"), f"{size / total:.0%}", Text(bar, style="blue"))
    return table


def _reasons(found: Explanation) -> Iterator[RenderableType]:
    if found.binding:
        yield Text.assemble(("Binding   ", "bold"), found.binding)
    if found.overflow >= SMALLEST_RISK:
        yield Text.assemble(("Memory    ", "bold"), f"{found.overflow:.0%} likely to run out")
    for effect in found.convergence:
        yield Text.assemble(("Converges ", "bold"), effect)
    if found.next_best is not None:
        margin = f"{format_seconds(found.margin)} slower" if found.margin > 0 else ""
        reason = found.next_best.reason
        # most reasons begin with the margin
        begins = reason.startswith(margin) or (margin and reason.startswith(f"{format_seconds(found.margin)} ("))
        after = (reason,) if begins else (margin, reason)
        told = ": ".join(part for part in after if part)
        yield Text.assemble(("Next best ", "bold"), found.next_best.summary + (f", {told}" if told else ""))
    for flip in found.flips:
        yield Text.assemble(("Flips     ", "bold"), flip)
    if found.rejected:
        yield Text(f"{len(found.rejected)} other plans were considered.", style="dim")


def _decisions(found: Explanation) -> Table:
    table = Table(title="Decisions", title_justify="left")
    table.add_column("")
    table.add_column("value", overflow="fold")
    table.add_column("from", style="dim")
    for decision in found.decisions:
        table.add_row(decision.name, Text(decision.value), decision.origin or "–")
    return table
