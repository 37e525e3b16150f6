"""A plan as a TOML file that a person can read, and that `run`, `explain` and `report` take."""

from pathlib import Path

from meshwright.documents import read_toml, write_toml
from meshwright.plan._plan import Plan


def read_plan(path: Path) -> Plan:
    """The plan in a file.

    Raises:
        DocumentError: no such file, or not a plan.
    """
    return read_toml(Plan, path)


def write_plan(plan: Plan, path: Path) -> None:
    """Stores a plan, whole or not at all.

    Raises:
        DocumentError: the folder cannot be written.
    """
    write_toml(plan, path)
