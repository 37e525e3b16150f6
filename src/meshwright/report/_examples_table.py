"""The examples as a table."""

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text


def examples_table(examples: Mapping[str, str]) -> Table:
    """Name and first line of each example.

    Args:
        examples: first line of the module's docstring, by name.
    """
    table = Table(title="Examples", title_justify="left")
    table.add_column("name", no_wrap=True)
    table.add_column("what it shows", overflow="fold")
    for name, line in examples.items():
        table.add_row(name, Text(line))
    return table
