"""`meshwright explain`."""

from pathlib import Path

from meshwright.cli._options import Flag
from meshwright.cli._output import print_json, print_view
from meshwright.documents import to_mapping
from meshwright.plan import Plan, difference, read_plan
from meshwright.plan import explain as explain_plan
from meshwright.report import difference_view, explanation_view


def explain(plan: Path, other: Path | None = None, /, *, json: Flag = False) -> None:
    """Why a plan was chosen: what binds, where time and memory go, what comes next and what would flip the choice.

    Given two plans, in what they differ.

    Parameters
    ----------
    plan
        A plan's file, or the folder of a run.
    other
        A second one, to compare with.
    json
        Print one JSON object.
    """
    first = _read(plan)
    if other is None:
        explanation = explain_plan(first)
        if json:
            print_json(to_mapping(explanation))
        else:
            print_view(explanation_view(explanation))
        return
    differences = difference(first, _read(other))
    if json:
        print_json({"differences": [to_mapping(item) for item in differences]})
    else:
        print_view(difference_view(differences))


def _read(path: Path) -> Plan:
    return read_plan(path / "plan.toml" if path.is_dir() else path)
