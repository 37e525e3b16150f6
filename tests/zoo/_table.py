"""The support table as data and as a page."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from zoo import ZOO
from zoo._cell import Cell
from zoo._methods import COMBINATIONS, COMBINED, METHODS

Table = dict[str, dict[str, Cell]]
HERE = Path(__file__).parent
DATA = HERE / "support.json"
PAGE = HERE.parent.parent / "docs" / "support.md"

_HEAD = """# What trains how

Every model below under every method, run through `verify`: {steps} optimizer steps in worker processes against the same
steps on one device. A number is the larger of the relative distances of loss and gradient; at most 1e-4 counts as equal
in float32, at most 1e-9 in float64, in which {double} is compared: in float32 rounding alone changes its gradient by a
tenth. In brackets: the part of the parameters of which each worker holds a part. A letter is a refusal before the first
step, with its reason below the table; a dash means that the model has nothing which the method would split. Nothing
else may happen: a crash, a hang or another gradient fails the tests.

The second table has every two and every three axes together, two workers on each; experts are spread over the data
ranks or the parts of a sequence beside them.

This page is made by `python tests/zoo/support.py` (everything: about an hour and a half on two cores; `--models` and
`--methods` take names and replace those cells). The test suite runs a part of it again, another one every day, and
checks that the verdicts are those of this page. The models are in `tests/zoo`: {models} small ones with random weights.
Models with batch normalization run in one micro-batch, because its statistics are those of one forward.
"""


def read() -> Table:
    """The table as committed."""
    if not DATA.exists():
        return {}
    stored = json.loads(DATA.read_text(encoding="utf-8"))
    return {model: {method: Cell(**cell) for method, cell in cells.items()} for model, cells in stored["cells"].items()}


def write(table: Table) -> None:
    """Writes data and page."""
    data = {
        model.name: {
            method.name: asdict(table[model.name][method.name])
            for method in (*METHODS, *COMBINATIONS)
            if method.name in table.get(model.name, {})
        }
        for model in ZOO
    }
    DATA.write_text(json.dumps({"cells": data}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(table), encoding="utf-8")


def page(table: Mapping[str, Mapping[str, Cell]]) -> str:
    """The page of a table."""
    reasons: dict[str, str] = {}
    rows = [
        f"| {model.name} | {model.family} | "
        + " | ".join(_text(table.get(model.name, {}).get(method.name), reasons) for method in METHODS)
        + " |"
        for model in ZOO
    ]
    head = ["model", "family", *(method.name for method in METHODS)]
    counts = ["**equal**", "", *(_count(table, method.name) for method in METHODS)]
    workers = ["workers", "", *(str(method.workers) for method in METHODS)]
    lines = [
        _HEAD.format(
            steps=2, models=len(ZOO), double=", ".join(model.name for model in ZOO if model.dtype == torch.float64)
        ),
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        f"| {' | '.join(workers)} |",
        *rows,
        f"| {' | '.join(counts)} |",
        *_together(table, reasons),
    ]
    if reasons:
        lines += ["", "## Refused", "", *(f"- **{letter}**: {reason}" for reason, letter in reasons.items())]
    return "\n".join(lines) + "\n"


def _together(table: Mapping[str, Mapping[str, Cell]], reasons: dict[str, str]) -> list[str]:
    """The table of axes together: a line for each combination."""
    rows = [
        f"| {method.name} | {method.workers} | "
        + " | ".join(_text(table.get(model, {}).get(method.name), reasons) for model in COMBINED)
        + " |"
        for method in COMBINATIONS
    ]
    counts = {
        model: Counter(
            table[model][method.name].verdict for method in COMBINATIONS if method.name in table.get(model, {})
        )
        for model in COMBINED
    }
    equal = (f"**{counts[model]['equal']} of {sum(counts[model].values())}**" for model in COMBINED)
    return [
        "",
        "## Axes together",
        "",
        f"| axes, 2 of each | workers | {' | '.join(COMBINED)} |",
        "|---|---|---|---|",
        *rows,
        f"| **equal** | | {' | '.join(equal)} |",
    ]


def _text(cell: Cell | None, reasons: dict[str, str]) -> str:
    if cell is None:
        return "–"
    if cell.verdict == "equal":
        return f"{cell.distance:.0e}" + (f" ({cell.split:.0%})" if cell.split is not None else "")
    if cell.verdict == "declined":
        return reasons.setdefault(cell.reason, _letter(len(reasons)))
    return f"**{cell.verdict}**"


def _letter(number: int) -> str:
    return chr(ord("a") + number) if number < 26 else _letter(number // 26 - 1) + _letter(number % 26)


def _count(table: Mapping[str, Mapping[str, Cell]], method: str) -> str:
    verdicts = Counter(cells[method].verdict for cells in table.values() if method in cells)
    return f"**{verdicts['equal']} of {sum(verdicts.values())}**"
