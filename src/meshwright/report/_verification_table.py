"""The proof as a table: how far the plan is from the one-device program."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from meshwright.cost import Verification


def verification_table(verification: Verification) -> RenderableType:
    """Distances of loss, gradients and parameters, each beside the largest that counts as rounding."""
    found = verification
    word = "equal" if found.equal else "not equal"
    title = Text(f"{found.strategy}: {word} to one device", style="bold green" if found.equal else "bold red")
    table = Table()
    table.add_column("")
    for column in ("distance", "rounding up to"):
        table.add_column(column, justify="right")
    table.add_column("where most", overflow="fold")
    rows = (
        (f"loss, {found.steps} steps", found.loss, found.tolerance, ""),
        ("gradients", found.gradient, found.tolerance, _where(found.worst_gradient, found.worst_gradient_distance)),
        ("parameters", found.parameters, found.parameter_tolerance,
         _where(found.worst_parameter, found.worst_parameter_distance)),
    )  # fmt: skip
    for name, distance, tolerance, where in rows:
        style = "green" if distance <= tolerance else "red"
        table.add_row(name, Text(f"{distance:.1e}", style=style), f"{tolerance:.0e}", Text(where))
    notes = [Text(note, style="dim") for note in (f"compared in {found.dtype}", *found.notes)]
    return Group(title, table, *notes)


def _where(name: str, distance: float) -> str:
    return f"{name} ({distance:.1e})" if name else ""
