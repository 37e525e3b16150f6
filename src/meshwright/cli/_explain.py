"""`meshwright explain`."""

from pathlib import Path

from meshwright.cli._options import Flag, Many
from meshwright.cli._output import print_json, print_view
from meshwright.cli._session import beside
from meshwright.cli._settings import parse_pins
from meshwright.documents import to_mapping
from meshwright.errors import UsageError
from meshwright.graph import Graph, read_graph
from meshwright.hardware import Cluster, read_cluster
from meshwright.plan import Plan, difference, price_change, read_plan
from meshwright.plan import explain as explain_plan
from meshwright.report import change_view, difference_view, explanation_view, layout_view


def explain(plan: Path, other: Path | None = None, /, *, set: Many = (), json: Flag = False) -> None:  # noqa: A002
    """Why a plan was chosen: what binds, where time and memory go, what comes next and what would flip the choice.

    Given two plans, in what they differ.

    Parameters
    ----------
    plan
        A plan's file, or the folder of a run.
    other
        A second one, to compare with.
    set
        Price a change of the plan: KEY=VALUE, for example tensor=4. Again for another.
    json
        Print one JSON object.
    """
    first = _read(plan)
    if set:
        change = price_change(first, *_made_of(plan), parse_pins(set))
        if json:
            print_json(to_mapping(change))
        else:
            print_view(change_view(change))
        return
    if other is None:
        explanation = explain_plan(first)
        if json:
            print_json(to_mapping(explanation))
        else:
            print_view(explanation_view(explanation))
            print_view(layout_view(first))
        return
    differences = difference(first, _read(other))
    if json:
        print_json({"differences": [to_mapping(item) for item in differences]})
    else:
        print_view(difference_view(differences))


def _read(path: Path) -> Plan:
    return read_plan(path / "plan.toml" if path.is_dir() else path)


def _made_of(path: Path) -> tuple[Graph, Cluster]:
    """The graph and the cluster of a plan: of its run's folder, or beside its file.

    Raises:
        UsageError: they are not there.
    """
    graph, cluster = beside(path)
    if not (graph.is_file() and cluster.is_file()):
        raise UsageError(
            f"{path}: a change can only be priced with the model's graph and the cluster",
            cause=f"{graph} and {cluster} are not both there",
            alternatives=["the folder of a run", "a plan that `meshwright plan` has just written"],
            command="meshwright plan SCRIPT",
        )
    return read_graph(graph), read_cluster(cluster)
