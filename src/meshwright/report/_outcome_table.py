"""Predicted beside measured, for the terminal."""

from rich.table import Table

from meshwright.cost import Measurement, Prediction
from meshwright.report._outcome import outcomes

GOOD_ERROR = 0.10
POOR_ERROR = 0.25


def outcome_table(prediction: Prediction, measurement: Measurement) -> Table:
    """Step time, where it goes, and peak memory: predicted, measured, and the prediction's error in percent."""
    steps = measurement.steps
    table = Table(title=f"Predicted and measured over {steps} step{'s' if steps != 1 else ''}", title_justify="left")
    table.add_column("")
    for column in ("predicted", "measured", "error"):
        table.add_column(column, justify="right")
    for row in outcomes(prediction, measurement):
        predicted, measured, error = row.texts
        style = _style(row.error) if row.level == 0 else "dim"
        table.add_row("  " * row.level + row.name, predicted, measured, f"[{style}]{error}[/]" if style else error)
    return table


def _style(error: float | None) -> str:
    if error is None:
        return ""
    if abs(error) <= GOOD_ERROR:
        return "green"
    return "yellow" if abs(error) <= POOR_ERROR else "red"
